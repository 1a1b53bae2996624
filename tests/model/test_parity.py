"""`variant: released` against golden outputs of the released model, with stand-in weights made from the entries' names."""

import json
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from symnet.config import ModelSettings
from symnet.model import SymNet
from symnet.model.released import our_name, released_name

ARRAYS = 1e-5  # largest difference over largest value; the released model ran in float32 as well
GRADIENTS = 1e-3  # a norm sums roundings, which differ between CPUs: 2e-5 on one, 1.04e-4 on another


pytestmark = pytest.mark.xdist_group("parity")  # each model computed once


@pytest.fixture(scope="module")
def states(reference: ModuleType, shared: Path) -> dict[int, dict[str, np.ndarray]]:
    """Released state dicts by shots; most tensors are the same in both."""
    five = reference.state_dict(shared / "reference" / "released_state_dict_5shot.tsv")
    one = {name for name, _ in reference.read_keys(shared / "reference" / "released_state_dict_1shot.tsv")}
    assert five.keys() - one == {f"kshot_rw.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    return {1: {name: value for name, value in five.items() if name in one}, 5: five}


@pytest.fixture(scope="module", params=[1, 5], ids=["1shot", "5shot"])
def run(request: pytest.FixtureRequest, reference: ModuleType, states: dict[int, dict[str, np.ndarray]], shared: Path) -> SimpleNamespace:
    """Ours and theirs: forward, losses and gradients of one episode batch."""
    shot = request.param
    arrays = np.load(shared / "reference" / f"golden_{shot}shot.npz")
    told = json.loads((shared / "reference" / f"golden_{shot}shot.json").read_text())
    model = SymNet.from_released(states[shot], shot=shot, image_size=told["size"], scales=tuple(told["scales"]))
    made = reference.episode(told["size"], shot, told["batch"], told["seed"])
    episode = {name: torch.as_tensor(value) for name, value in made.items()}
    inputs = (episode["query"], episode["support"], episode["support_mask"], torch.as_tensor(arrays["text"]))
    with torch.no_grad():
        maps = model.backbone(torch.cat([episode["query"], episode["support"].flatten(0, 1)]))
    model.backbone.forward = lambda images: maps  # most of the time of a pass; both below see the same images
    with torch.no_grad():
        output = model(*inputs)
    losses = model.losses(*inputs, episode["query_mask"], episode["base_mask"], episode["base_index"])
    torch.stack(list(losses.values())).sum().backward()
    return SimpleNamespace(shot=shot, model=model, output=output, losses=losses, arrays=arrays, told=told, state=states[shot])


def test_arrays(run: SimpleNamespace) -> None:
    out = run.output
    ours = {
        "final": out.final[..., ::8, ::8],
        "meta": out.meta[..., ::8, ::8],
        "base": out.base[..., ::8, ::8],
        "prior": out.prior,
        "hyper": out.hyper,
        "corr_layer2": out.correlations.layer2,
        "corr_layer3": out.correlations.layer3,
        "corr_layer4": out.correlations.layer4,
        "support_prototypes": out.support_prototypes,
        "query_prototype": out.query_prototype,
        "kshot_weight": out.shot_weights[:, :, None, None],
    }
    assert ours.keys() == set(run.arrays.files) - {"text"}
    errors = {}
    for name, value in ours.items():
        theirs = run.arrays[name]
        assert tuple(value.shape) == theirs.shape, name
        errors[name] = float(np.abs(value.numpy() - theirs).max() / np.abs(theirs).max())
    assert {name: error for name, error in errors.items() if not error <= ARRAYS} == {}


def test_losses(run: SimpleNamespace) -> None:
    theirs = {"inner" if name == "inner_mean" else name: value for name, value in run.told["losses"].items()}
    assert {name: value.item() for name, value in run.losses.items()} == pytest.approx(theirs, rel=ARRAYS)
    assert run.model.head.objective(run.losses).item() == pytest.approx(sum(theirs.values()), rel=ARRAYS)


def test_gradient_norms(run: SimpleNamespace) -> None:
    ours = {name: p.grad.norm().item() for name, p in run.model.named_parameters() if p.grad is not None}
    theirs = {our_name(name): value for name, value in run.told["grad_norms"].items()}
    assert ours == pytest.approx(theirs, rel=GRADIENTS)  # the frozen parts have none, on either side


def test_parameter_counts(run: SimpleNamespace) -> None:
    sizes = {name: value.size for name, value in run.state.items() if not name.endswith(("_mean", "_var", "num_batches_tracked"))}
    assert sum(p.numel() for p in run.model.parameters()) == sum(sizes.values())
    trainable = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    assert trainable == sum(sizes[name] for name in run.told["grad_norms"])
    assert (trainable, sum(sizes.values())) == {1: (11_217_310, 57_931_118), 5: (11_217_337, 57_931_145)}[run.shot]


def test_every_weight_is_in_its_place(run: SimpleNamespace) -> None:
    ours = run.model.state_dict()
    assert {our_name(name) for name in run.state} == ours.keys()
    assert {released_name(name) for name in ours} == run.state.keys()
    for name, value in run.state.items():
        assert np.array_equal(ours[our_name(name)].numpy().ravel(), value.ravel()), name


def test_module_prefix_is_accepted(states: dict[int, dict[str, np.ndarray]]) -> None:
    model = SymNet.from_released({f"module.{name}": value for name, value in states[1].items()}, image_size=33)
    assert torch.equal(model.head.align.score.detach(), torch.as_tensor(states[1]["CrossAttention.weight"]))
    assert not model.training
    assert not any(p.requires_grad for p in (*model.backbone.parameters(), *model.base.parameters()))


MEAN = "layer4.2.bn3.running_mean"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gram_merge.weight": None}, r"no entry 'gram_merge\.weight' \(1 missing"),
        ({"beta_conv.3.2.weight": None}, r"no entry 'beta_conv\.3\.2\.weight'"),
        ({"cls.0.weight": None}, r"no entry 'cls\.0\.weight'"),
        ({"layer5.0.weight": np.zeros(3)}, r"foreign entry 'layer5\.0\.weight'"),
        ({"kshot_rw.0.bias": np.zeros(2)}, r"foreign entry 'kshot_rw\.0\.bias'"),
        ({MEAN: np.zeros(2047)}, r"entry 'layer4\.2\.bn3\.running_mean' has shape \(2047,\), expected \(2048,\)"),
        ({"CrossAttention.w_q.weight": np.zeros(556)}, r"entry 'CrossAttention\.w_q\.weight' has shape \(556,\), expected 2 axes"),
    ],
    ids=["missing", "missing deep", "missing first", "foreign", "of 5 shots", "misshapen", "misshapen first"],
)
def test_refuses_and_names(states: dict[int, dict[str, np.ndarray]], change: dict[str, np.ndarray | None], message: str) -> None:
    state = {name: value for name, value in (states[1] | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        SymNet.from_released(state, image_size=33)


def test_five_shots_need_their_weights(states: dict[int, dict[str, np.ndarray]]) -> None:
    with pytest.raises(ValueError, match=r"no entry 'kshot_rw\.0\.bias'"):
        SymNet.from_released(states[1], shot=5, image_size=33)


def test_learning_starts_where_the_released_code_does() -> None:
    """The ensemble passes the meta learner through; attention's matrix is uniform in +-1/16."""
    torch.manual_seed(0)
    head = SymNet(ModelSettings(variant="released"), backbone="efficientnet_lite0", image_size=33).head
    assert head.ensemble.with_psi.weight.flatten().tolist() == [1.0, 0.0]
    assert head.ensemble.with_base.weight.flatten().tolist() == [1.0, 0.0]
    score = head.align.score.detach()
    assert score.abs().max() <= 1 / 16
    assert score.std().item() == pytest.approx(1 / 16 / math.sqrt(3), rel=0.02)
