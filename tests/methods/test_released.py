"""Methods behind their door against golden outputs of their released code, with stand-in weights made from the entries' names."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from symnet import methods

# Largest difference over largest value. The goldens agree with themselves, computed another way, to 2e-5, 4e-7 and 2e-4 (their README).
# CPUs round differently: the norm of one bias, 1e-4 large, was off by 1.1e-3 on one of them.
ARRAYS, LOSSES, GRADIENTS = 1e-4, 1e-5, 2e-3
NOTHING = 1e-9  # a gradient that is 0 but for rounding: of a bias under a softmax
# Our names for the goldens', where they differ
OURS = {
    "PFENet": {"logits": "final", "main": "prediction", "aux_mean_of_4": "inner"},
    "BAM": {"final": "ensemble"},  # of the loss: of the array it is ours as well
    "HSNet": {"cross_entropy": "prediction"},
    "MIANet": {"logits": "final", "main": "prediction", "aux_mean_of_4": "inner"},
    "DCAMA": {"logits": "final", "cross_entropy": "prediction"},
    "FECANet": {"cross_entropy": "prediction"},
    "CyCTR": {"logits": "final", "main": "prediction", "aux": "auxiliary"},
    "QPENet": {"logits": "final", "main": "prediction"},
    "HDMNet": {"distillation/3": "distillation"},
}
IDLE = ("addtional_proj.",)  # beginnings of names of what is trainable there and read by nothing
# Parts of losses that are told as their sum
SUMS = {"aux(bg+0.6initial+0.5simple)": ("background", "initial", "simple"), "main(final+meta)": ("meta", "ensemble")}

pytestmark = pytest.mark.xdist_group("released")  # each model computed once


@dataclass(frozen=True)
class Golden:
    """One of them: whose, which, and the file of its entries' names."""

    method: str
    tag: str
    keys: str


GOLDENS = [
    Golden("PFENet", "1shot", "released_state_dict"),
    Golden("PFENet", "5shot", "released_state_dict"),
    Golden("PFENet", "1shot_fraction", "released_state_dict"),
    Golden("BAM", "1shot", "released_state_dict_1shot"),
    Golden("BAM", "5shot", "released_state_dict_5shot"),
    Golden("HSNet", "1shot", "released_state_dict_resnet50"),
    Golden("HSNet", "5shot", "released_state_dict_resnet50"),
    Golden("MIANet", "1shot", "released_state_dict"),
    Golden("DCAMA", "1shot", "released_state_dict_resnet50"),
    Golden("DCAMA", "5shot", "released_state_dict_resnet50"),
    Golden("FECANet", "1shot", "released_state_dict_resnet50"),
    Golden("CyCTR", "1shot", "released_state_dict"),
    Golden("CyCTR", "5shot", "released_state_dict"),
    Golden("QPENet", "1shot", "released_state_dict"),
    Golden("HDMNet", "1shot", "released_state_dict_1shot"),
    Golden("HDMNet", "5shot", "released_state_dict_5shot"),
]


@pytest.fixture(scope="module")
def memory() -> dict[Any, Any]:
    """See `remember`."""
    return {}


@pytest.fixture(scope="module", params=GOLDENS, ids=lambda golden: f"{golden.method} {golden.tag}")
def run(request: pytest.FixtureRequest, reference: ModuleType, shared: Path, state: Any, memory: dict[Any, Any]) -> SimpleNamespace:
    """Ours and theirs: forward, losses and gradients of one episode batch, and the losses with batch norm in training mode."""
    golden = request.param
    folder = shared / "methods" / "golden" / golden.method
    told = json.loads((folder / f"golden_{golden.tag}.json").read_text())
    arrays = dict(np.load(folder / f"golden_{golden.tag}.npz"))
    weights = state(golden.method, golden.keys)
    model = getattr(methods, golden.method).from_released(weights, told["shot"], told["size"], told.get("scales"))
    made = reference.episode(told["size"], told["shot"], told["batch"], told["seed"], told.get("base_classes", 15))
    episode = {name: torch.as_tensor(value) for name, value in made.items()}
    inputs = (episode["query"], episode["support"], episode["support_mask"], words(shared)[episode["class_id"] - 1])
    truth = (episode["query_mask"], episode["base_mask"], episode["base_index"])
    beside = {name: torch.as_tensor(arrays.pop(name)) for name in ("history",) if name in arrays}
    remember(model.backbone, memory)
    frozen, freeze = {}, getattr(model.method, "freeze", None)
    if freeze is not None:
        model.method.freeze = lambda *args, training=False: frozen.setdefault(training, freeze(*args, training=training))
    with torch.no_grad():
        output = model(*inputs, **beside)
    losses = model.losses(*inputs, *truth, **beside)
    if told["grad_norms"]:  # one has none, and no losses
        torch.stack(list(losses.values())).sum().backward()
    found = SimpleNamespace(
        golden=golden, model=model, frozen=frozen, output=output, losses=losses, arrays=arrays, told=told, state=weights
    )
    found.losses_bn_train = None
    if "losses_bn_train" in told:
        model.method.freeze, model.bn = freeze, "train"
        statistics = {name: value.clone() for name, value in model.backbone.state_dict().items()}
        found.losses_bn_train = without_dropout(model.train()).losses(*inputs, *truth)
        found.drifted = {n for n, value in model.backbone.state_dict().items() if not torch.equal(value, statistics[n])}
        model.backbone.load_state_dict(statistics)
        model.eval()
    return found


def words(shared: Path) -> torch.Tensor:
    """Vectors of VOC's classes, [20, 300]: the file's first rows."""
    lines = (shared / "data" / "embeddings" / "word2vec_classes.txt").read_text().splitlines()[1:21]
    return torch.tensor([[float(value) for value in line.split()[1:]] for line in lines])


def remember(backbone: Any, memory: dict[Any, Any]) -> None:
    """Keep what a backbone in eval mode answers, most of the time of a pass. Weights are a function of names: a network's are the same."""
    for name in ("until_last", "last_stage"):
        plain = getattr(backbone, name)

        def call(x: torch.Tensor, name: str = name, plain: Any = plain) -> Any:
            key = (type(backbone), name, x.shape, x.double().sum().item(), x[0, 0].double().norm().item())
            if backbone.training:
                return plain(x)
            if key not in memory:
                memory[key] = plain(x)
            return memory[key]

        setattr(backbone, name, call)


def without_dropout(model: torch.nn.Module) -> Any:
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0
    return model


def differences(ours: dict[str, torch.Tensor], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Of each array, the largest difference over the largest value."""
    assert {name: tuple(value.shape) for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    return {name: float(np.abs(ours[name].numpy() - value).max() / np.abs(value).max()) for name, value in theirs.items()}


def test_arrays(run: SimpleNamespace) -> None:
    large = ("final", "meta", "base", "logits", "vote")
    names = OURS[run.golden.method] if run.golden.method != "BAM" else {}
    left_out = {*APART, *UNREAD, *(name for name in run.arrays if name.endswith("_shape"))}
    theirs = {names.get(name, name): value for name, value in run.arrays.items() if name not in left_out}
    assert theirs
    ours = {name: getattr(run.output, name) for name in theirs}
    every = {name: -(-ours[name].shape[-1] // value.shape[-1]) if name in large else 1 for name, value in theirs.items()}
    ours = {name: value if every[name] == 1 else value[..., :: every[name], :: every[name]] for name, value in ours.items()}
    assert {name: error for name, error in differences(ours, theirs).items() if not error <= ARRAYS} == {}
    whole = [name for name in large if hasattr(run.output, name) and (run.golden.method, name) != ("FECANet", "logits")]  # its own, halved
    assert {getattr(run.output, name).shape[-1] for name in whole} == {run.told["size"]}


UNREAD = ("all_class_prototypes",)  # of which the episode's own class is an array of its own
# Arrays that are no part of an answer, and what we compute of the same.
APART = {
    "base_map_train": lambda model, frozen: frozen[True].base.unsqueeze(1),
    "kshot_psi_sorted": lambda model, frozen: frozen[False].psi.sort(1).values,
    "kshot_out_sorted": lambda model, frozen: model.method.head.weigh.layers(frozen[False].psi.sort(1).values),
}


@torch.no_grad()
def test_arrays_on_the_way(run: SimpleNamespace) -> None:
    theirs = {name: value for name, value in run.arrays.items() if name in APART}
    ours = {name: APART[name](run.model, run.frozen) for name in theirs}
    assert {name: error for name, error in differences(ours, theirs).items() if not error <= ARRAYS} == {}
    if run.golden.method == "BAM":
        assert "base_map_train" in theirs


def test_losses(run: SimpleNamespace) -> None:
    names = OURS[run.golden.method]
    if "losses" not in run.told:
        pytest.skip("trained on one support")
    theirs = {names.get(name, name): value for name, value in run.told["losses"].items() if name != "total"}
    ours = {name: value.item() for name, value in run.losses.items()}
    ours |= {whole: sum(ours.pop(name) for name in parts) for whole, parts in SUMS.items() if whole in theirs}
    assert ours == pytest.approx(theirs, rel=LOSSES)
    if "total" in run.told["losses"]:
        assert sum(value.item() for value in run.losses.values()) == pytest.approx(run.told["losses"]["total"], rel=LOSSES)


def test_losses_with_batch_norm_in_training_mode(run: SimpleNamespace) -> None:
    if run.losses_bn_train is None:
        pytest.skip("its code has the network in eval mode")
    theirs = {OURS[run.golden.method].get(name, name): value for name, value in run.told["losses_bn_train"].items() if name != "note"}
    assert {name: value.item() for name, value in run.losses_bn_train.items()} == pytest.approx(theirs, rel=LOSSES)
    assert run.drifted == {n for n in run.model.backbone.state_dict() if n.endswith(("running_mean", "running_var", "num_batches_tracked"))}


def test_gradient_norms(run: SimpleNamespace) -> None:
    ours = {name: p.grad.norm().item() for name, p in run.model.named_parameters() if p.grad is not None}
    theirs = {run.model.our_name(name): value for name, value in run.told["grad_norms"].items()}
    assert ours == pytest.approx(theirs, rel=GRADIENTS, abs=NOTHING)  # the frozen parts have none, on either side


def test_every_weight_is_in_its_place(run: SimpleNamespace) -> None:
    unused = ("fc.", "classifier.", *run.model.method.unused)
    ours, read = run.model.state_dict(), {name: value for name, value in run.state.items() if not name.startswith(unused)}
    assert {run.model.our_name(name) for name in read} == ours.keys()
    assert {run.model.released_name(name) for name in ours} == read.keys()
    for name, value in read.items():
        assert np.array_equal(ours[run.model.our_name(name)].numpy().ravel(), value.ravel()), name
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    unread = sum(value.size for name, value in run.state.items() if name not in read and not name.endswith(statistics))
    trainable = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    idle = sum(value.size for name, value in run.state.items() if name.startswith(IDLE))
    counts = {
        "trainable": trainable + idle,
        "learner": trainable,
        "model": trainable,
        "total": sum(p.numel() for p in run.model.parameters()) + unread,
    }
    assert run.told["parameters"].items() <= counts.items()


@pytest.mark.parametrize(
    ("method", "keys", "trainable", "total"),
    [
        ("PFENet", "released_state_dict_vgg16", 10_423_818, 25_146_954),
        ("BAM", "released_state_dict_1shot_vgg16", 4_524_038, 24_238_166),
        ("BAM", "released_state_dict_1shot_coco", 4_917_254, 51_654_147),
        ("MIANet", "released_state_dict_vgg16", 12_101_002, 12_101_002 + 14_723_136),  # of 31,815,130 the base learner's head is not held
        ("HSNet", "released_state_dict_vgg16", 2_570_018, 2_570_018 + 14_714_688),  # torchvision's convolutions
    ],
)
@torch.no_grad()
def test_others_of_the_family(state: Any, method: str, keys: str, trainable: int, total: int) -> None:
    """Counts as the cards print them; VGG's features at stride 16 beside scales of stride 8; COCO's 60 base classes."""
    model = getattr(methods, method).from_released(state(method, keys), image_size=65)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
    assert sum(p.numel() for p in model.parameters()) == total
    out = model(torch.randn(1, 3, 65, 65), torch.randn(1, 1, 3, 65, 65), torch.ones(1, 1, 65, 65), torch.zeros(1, 300))
    assert out.final.shape == (1, 2, 65, 65)
    if method == "HSNet":
        assert out.corr_layer4_max_over_support.shape == (1, 1, 2, 2)  # of the last pool, which rounds down
        return
    if method == "MIANet":
        assert [getattr(out, f"prior_{n}").shape[-1] for n in range(4)] == [9, 5, 3, 2]
        return
    assert out.prior.shape == (1, 1, *[5 if "vgg" in keys else 9] * 2)
    if method == "PFENet":
        assert [getattr(out, f"inner_logits_{n}").shape[-1] for n in range(4)] == [9, 5, 3, 2]
    else:
        assert out.base.shape == (1, 61 if "coco" in keys else 16, 65, 65)


REFUSED = [
    ({"cls.0.weight": None}, {}, r"no entry 'cls\.0\.weight': not a state dict of the released PFENet"),
    ({"beta_conv.3.2.weight": None}, {}, r"no entry 'beta_conv\.3\.2\.weight' \(1 missing"),
    ({"kshot_rw.0.bias": np.zeros(2)}, {}, r"foreign entry 'kshot_rw\.0\.bias'"),
    ({"cls.3.bias": np.zeros(3)}, {}, r"entry 'cls\.3\.bias' has shape \(3,\), expected \(2,\)"),
    ({}, {"image_size": 64}, "image_size: found 64, allowed: 8n"),
    ({}, {"shot": 0}, "shot: found 0"),
    ({}, {"bn": "on"}, "bn: found 'on', allowed: eval, train"),
    ({}, {"scales": (1.0, 0.5, 0.25, 0.1)}, r"pfenet\.scales: found .* 0\.1 leaves nothing of side 5"),
    ({}, {"scales": (9, 5, 3, -1)}, r"^scales: found \(9, 5, 3, -1\), [^\n]* greater than 0[^\n]*$"),
    ({}, {"image_size": "33"}, "image_size: found '33', allowed: 8n"),
    ({"state_dict": 3}, {}, "state_dict: found int, expected names and their tensors"),
    ({"cls.3.bias": {}}, {}, r"entry 'cls\.3\.bias': found dict, expected a tensor"),
    ({"encoder.1.0.conv1.weight": np.zeros(2)}, {}, r"'encoder\.1\.0\.conv1\.weight' and 'layer1\.0\.conv1\.weight' should be one tensor"),
]


@pytest.mark.parametrize(("change", "options", "message"), REFUSED)
def test_what_does_not_fit_is_refused(state: Any, change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    whole = {name: value for name, value in (state("PFENet", "released_state_dict") | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        methods.PFENet.from_released(whole, **{"image_size": 33} | options)


@pytest.mark.parametrize(
    ("method", "keys", "trunk"),
    [
        ("HSNet", "released_state_dict_resnet50", "backbone."),
        ("CyCTR", "released_state_dict", "backbone.body."),
        ("DCAMA", "released_state_dict_resnet50", "feature_extractor."),
        ("BAM", "released_state_dict_1shot", ""),
    ],
)
def test_names_as_they_are_distributed(state: Any, method: str, keys: str, trunk: str) -> None:
    """What the goldens leave out of them: a network's own beginning, second names of stages, tables of positions, a file's wrapper."""
    plain = state(method, keys)
    own = re.compile(r"(conv|bn)\d\.|layer\d\.|fc\.") if trunk else re.compile("nothing")
    given = {f"module.{trunk if own.match(name) else ''}{name}": value for name, value in plain.items()}
    if method == "BAM":
        given |= {f"module.encoder.{name.removeprefix('layer')}": value for name, value in plain.items() if name.startswith("layer")}
    if method == "DCAMA":
        given["module.model.pe.0.pe"] = np.zeros((1, 4, 2), np.float32)
    found, expected = (getattr(methods, method).from_released(one, image_size=65) for one in ({"epoch": 3, "state_dict": given}, plain))
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("method", ["HSNet", "FECANet"])
def test_those_of_undilated_networks_take_the_sizes_of_their_code(state: Any, method: str) -> None:
    """They are trained at 400 pixels; at 96 the strides leave 12, 6 and 3."""
    model = getattr(methods, method).from_released(state(method, "released_state_dict_resnet50"), image_size=96)
    out = model(torch.randn(1, 3, 96, 96), torch.randn(1, 1, 3, 96, 96), torch.ones(1, 1, 96, 96), torch.zeros(1, 300))
    assert out.final.shape == (1, 2, 96, 96)
    assert model.method.sides == (12, 6, 3)


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.zeros((1, 3, 33, 33))}, "query: found ndarray, expected a tensor"),
        ({"query": torch.zeros(1, 3, 33, 33, dtype=torch.uint8)}, r"query: found torch\.uint8, expected normalised images"),
        ({"support": torch.full((1, 1, 3, 33, 33), torch.nan)}, "support: found values that are not finite"),
        ({"query": torch.zeros(0, 3, 33, 33)}, r"query: found shape \(0, 3, 33, 33\), expected \(1, 3, 33, 33\)"),
        ({"text": torch.zeros(1, 200)}, r"text: found shape \(1, 200\), expected \(1, 300\)"),
        ({"text": torch.zeros(300)}, r"text: found shape \(300,\), expected \(1, 300\)"),
    ],
)
def test_what_is_no_episode_is_refused(state: Any, change: dict[str, Any], message: str) -> None:
    model = methods.MIANet.from_released(state("MIANet", "released_state_dict"), image_size=33)
    episode = {"query": torch.zeros(1, 3, 33, 33), "support": torch.zeros(1, 1, 3, 33, 33)}
    episode |= {"support_mask": torch.ones(1, 1, 33, 33), "text": torch.zeros(1, 300)}
    with pytest.raises(ValueError, match=message):
        model(**episode | change)


def test_bam_decodes_at_one_scale(state: Any) -> None:
    with pytest.raises(ValueError, match=r"scales: found \(5, 3\), but BAM decodes at one scale"):
        methods.BAM.from_released(state("BAM", "released_state_dict_1shot"), image_size=33, scales=(5, 3))
