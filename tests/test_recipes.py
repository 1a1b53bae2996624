"""Each method's own optimisers, rates and decays: what its card says, against plain arithmetic, stopped and resumed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symnet import train
from symnet.artifacts import file_digest
from symnet.backbones.loading import build_backbone
from symnet.checkpoint import load_tensors
from symnet.config import Settings
from symnet.config_methods import Group
from symnet.errors import UserError
from symnet.experiment import make_experiment
from symnet.methods import METHODS, method_class, recipe_of
from symnet.recipes import members, optimiser_of, rate
from symnet.runtime import StopSignal
from symnet.stages import STAGES, read_slice, settings_digest, slice_settings
from symnet.trainer import Trainer
from tests.bench import Bench
from tests.marks import some

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once

# What the cards say, a line a group: pattern, optimiser, rate (printed, times what the code makes of it), decay, weight decay.
CARDS: dict[str, list[tuple[str, str, float, str, float]]] = {
    "pfenet": [("*", "sgd", 0.0025 * 10, "poly", 1e-4)],
    "bam": [("*", "sgd", 0.005 * 10, "poly", 1e-4)],
    "mianet": [("*", "sgd", 0.005 * 10, "poly", 1e-4)],
    "qpenet": [("*", "sgd", 0.0025 * 10, "poly", 1e-4)],
    "hsnet": [("*", "adam", 1e-3, "constant", 0)],
    "fecanet": [("*", "adam", 1e-3, "constant", 0)],
    "dcama": [("*", "nesterov", 1e-3, "constant", 1e-3 / 10)],
    "cyctr": [
        ("head.transform.*bias", "adamw", 1e-4, "constant", 0),
        ("head.transform.*", "adamw", 1e-4, "constant", 1e-2),
        ("*", "sgd", 0.0025 * 15, "poly", 1e-4),
    ],
    "ntrenet": [("*", "sgd", 0.0025 * 10, "poly", 1e-4)],
    "hpa": [("*", "sgd", 0.005 * 10, "poly", 1e-4)],
    "ssp": [("*", "sgd", 1e-3, "thirds", 5e-4)],
    "hdmnet": [("head.match.*", "adamw", 1e-4, "poly", 1e-2), ("*", "adamw", 1e-4 * 10, "poly", 1e-2)],
}


def group(optimiser: str = "sgd", **given: Any) -> Group:
    return Group.model_validate({"optimiser": optimiser, "lr": 0.1, "decay": "constant", "weight_decay": 0.0} | given)


@pytest.mark.parametrize("method", CARDS)
def test_recipes_are_the_cards(method: str) -> None:
    recipe = recipe_of(Settings(), method)
    assert recipe is not None
    assert [(g.names, g.optimiser, pytest.approx(g.lr), g.decay, g.weight_decay) for g in recipe] == CARDS[method]
    assert {(g.momentum, g.power) for g in recipe} == {(0.9, 0.9)}


def test_sym_net_and_a_method_told_so_train_as_train_says() -> None:
    assert recipe_of(Settings(), "symnet") is None
    assert recipe_of(Settings.model_validate({"bam": {"recipe": None}}), "bam") is None


def test_the_transformer_of_cyctr_has_an_optimiser_of_its_own() -> None:
    """Biases apart; the level vector and scales of layer norm are weights."""
    method = method_class("cyctr")(Settings(), build_backbone("efficientnet_lite0"), 1, 8, 5)
    recipe = recipe_of(Settings(), "cyctr")
    assert recipe is not None
    named = dict(method.named_parameters())
    of = {id(p): i for i, own in enumerate(members(recipe, named)) for p in own}
    assert of.keys() == {id(p) for p in named.values()}
    expected = {name: 2 if ".transform." not in name else 0 if name.endswith(".bias") else 1 for name in named}
    assert {name: of[id(p)] for name, p in named.items()} == expected
    assert sum(place == 0 for place in expected.values()) == 2 * (4 + 2)  # layers x (norms, offsets and weights of the attention)
    assert expected["head.transform.level"] == 1


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ({"decay": "constant", "power": 2.0}, [0.1] * 6),
        ({"decay": "poly", "power": 2.0}, [0.1 * ((6 - step) / 6) ** 2 for step in range(6)]),
        ({"decay": "thirds"}, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
    ],
    ids=["constant", "poly", "thirds"],
)
def test_the_rate_of_a_step(decay: dict[str, Any], expected: list[float]) -> None:
    assert [rate(group(**decay), step, 6) for step in range(6)] == pytest.approx(expected)


def test_thirds_end_where_ssp_s_do() -> None:
    found = [rate(group(decay="thirds", lr=1e-3), step, 6000) for step in (0, 1999, 2000, 3999, 4000, 5999)]
    assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


# --- against plain arithmetic


def plain_steps(kind: str, x: float, gradients: list[float], lr: list[float], decay: float, beta: float) -> list[float]:
    """The values of one weight after each step, by the textbook."""
    found, first, second = [], 0.0, 0.0
    for t, (own, eta) in enumerate(zip(gradients, lr, strict=True), start=1):
        g = own if kind == "adamw" else own + decay * x
        if kind == "adamw":
            x -= eta * decay * x
        if kind in ("sgd", "nesterov"):
            first = g if t == 1 else beta * first + g
            x -= eta * (g + beta * first if kind == "nesterov" else first)
        else:
            first, second = beta * first + (1 - beta) * g, 0.999 * second + 0.001 * g * g
            x -= eta * first / (1 - beta**t) / (math.sqrt(second / (1 - 0.999**t)) + 1e-8)
        found.append(x)
    return found


class Weights(nn.Module):
    """Stands in for a method: two parameters, which two groups train."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Parameter(torch.tensor([0.5, -2.0], dtype=torch.float64)) for _ in range(2))


GRADIENTS = [[0.3, -0.2, 0.4, 0.1], [-1.5, 0.7, 0.2, 0.9]]  # of each element, by step


def trainer_of(recipe: Any, method: nn.Module | None = None, **settings: Any) -> Trainer:
    return Trainer(method or Weights(), Settings.model_validate({"train": settings}), 4, recipe)  # type: ignore[arg-type]


def step(trainer: Trainer) -> None:
    for parameter in trainer.parameters:
        parameter.grad = torch.tensor(GRADIENTS, dtype=torch.float64)[:, trainer.step]
    trainer.advance()
    assert all(parameter.grad is None for parameter in trainer.parameters)


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam", "adamw"])
@pytest.mark.parametrize("decay", ["poly", "constant"])
def test_an_optimiser_does_what_the_textbook_says(kind: str, decay: str) -> None:
    """Beside another, of other weights, rate and decay."""
    own = group(kind, names="one", decay=decay, weight_decay=0.03, momentum=0.8, power=1.0)
    trainer = trainer_of((own, group(lr=0.01, weight_decay=0.5)))
    rates = {"poly": [0.1, 0.075, 0.05, 0.025], "constant": [0.1] * 4}[decay]
    expected = [plain_steps(kind, x, g, rates, 0.03, 0.8) for x, g in zip((0.5, -2.0), GRADIENTS, strict=True)]
    beside = [plain_steps("sgd", x, g, [0.01] * 4, 0.5, 0.9) for x, g in zip((0.5, -2.0), GRADIENTS, strict=True)]
    for number in range(4):
        step(trainer)
        assert trainer.parameters[0].tolist() == pytest.approx([values[number] for values in expected], rel=1e-12)
        assert trainer.parameters[1].tolist() == pytest.approx([values[number] for values in beside], rel=1e-12)


def test_without_a_recipe_train_says_it_all() -> None:
    trainer = trainer_of(None, lr=0.2, momentum=0.7, weight_decay=0.04, power=1.0)
    for _ in range(4):
        step(trainer)
    expected = [plain_steps("sgd", x, g, [0.2, 0.15, 0.1, 0.05], 0.04, 0.7)[-1] for x, g in zip((0.5, -2.0), GRADIENTS, strict=True)]
    assert [p.tolist() for p in trainer.parameters] == [pytest.approx(expected, rel=1e-12)] * 2


# --- stopped and resumed


def convolution() -> nn.Module:
    """Weights with channels innermost, as on a GPU, and a scalar."""
    torch.manual_seed(0)
    found = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found.scale = nn.Parameter(torch.tensor(1.0))
    return found


def go(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        draw = torch.Generator().manual_seed(trainer.step)
        for parameter in trainer.parameters:
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=draw))
        trainer.advance()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam", "adamw"])
def test_an_optimiser_goes_on_to_the_last_bit(kind: str, fused: bool) -> None:
    """As a checkpoint holds it: contiguous. Fused kernels keep counts of steps beside the weights, others on the host."""

    def fresh() -> Trainer:
        trainer = trainer_of((group(kind, names="weight", decay="thirds", weight_decay=0.1), group("adam")), convolution())
        for optimiser in trainer.optimisers:
            optimiser.param_groups[0]["fused"] = fused
        return trainer

    whole, before, after = fresh(), fresh(), fresh()
    go(whole, 4)
    go(before, 3)
    after.load({name: value.detach().contiguous() for name, value in before.tensors().items()}, {"step": 3, "parts": 1, "best": None})
    strides = [[v.stride() for v in o.state[o.param_groups[0]["params"][0]].values()] for o in (before.optimisers[0], after.optimisers[0])]
    assert strides[0] == strides[1]
    go(after, 1)
    found = after.tensors()
    assert found.keys() == whole.tensors().keys()
    assert {name for name, value in whole.tensors().items() if not torch.equal(value, found[name])} == set()


@pytest.mark.parametrize("method", some(["cyctr", "hsnet", "dcama"], "cyctr"))
def test_a_method_is_resumed_to_the_last_byte(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    settings: dict[str, Any] = {"method": method, "steps": 4, "selection": "last"}
    whole = file_digest(bench.train(tmp_path / "whole.safetensors", **settings))
    parts = tmp_path / "parts.safetensors"
    seen = iter([False, True])  # asked once a step
    with monkeypatch.context() as patched:
        patched.setattr(StopSignal, "requested", property(lambda _: next(seen, True)))
        with pytest.raises(train.Stopped, match="step 2 of 4"):
            bench.train(parts, **settings)
    kept = load_tensors(tmp_path / "parts" / "step-00000002.safetensors", "train")[0]
    remembered = {name.rpartition(".")[2] for name in kept if name.startswith("optimiser")}
    assert remembered == {"cyctr": {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}, "dcama": {"momentum_buffer"}}.get(
        method, {"exp_avg", "exp_avg_sq", "step"}
    )
    assert file_digest(bench.train(parts, **settings)) == whole


def test_the_device_is_not_waited_for() -> None:
    """On a GPU every optimiser is one kernel, which counts its steps there."""
    made: list[dict[str, Any]] = []

    class OnGpu(nn.Parameter):
        is_cuda = True  # type: ignore[assignment]

    for kind in ("sgd", "nesterov", "adam", "adamw"):
        made.append(optimiser_of(group(kind), [OnGpu(Tensor([1.0]))]).param_groups[0])
    assert [found["fused"] for found in made] == [True] * 4


# --- settings


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ([], "hsnet.recipe: the last group must take what is left (names '*'), found []"),
        ([{"names": "a"}], "hsnet.recipe: the last group must take what is left (names '*'), found [{"),
        ([{"lr": 0}], "hsnet.recipe.0.lr: Input should be greater than 0, found 0"),
        ([{"optimiser": "lamb"}], "hsnet.recipe.0.optimiser: Input should be 'sgd', 'nesterov', 'adam' or 'adamw', found 'lamb'"),
        ([{"decay": "cosine"}], "hsnet.recipe.0.decay: Input should be 'poly', 'constant' or 'thirds', found 'cosine'"),
        ([{"optimiser": "nesterov", "momentum": 0}], "hsnet.recipe.0: momentum must be above 0 for nesterov, found {"),
        ([{"optimiser": "adamw", "momentum": 1}], "hsnet.recipe.0: momentum must be below 1 for adamw, found {"),
        ([{"beta": 1}], "hsnet.recipe.0.beta: unknown key; allowed: names, optimiser, lr, decay, weight_decay, momentum, power"),
        ("adam", "hsnet.recipe: Input should be a valid array, found 'adam'"),
    ],
    ids=str,
)
def test_impossible_recipes(recipe: Any, told: str) -> None:
    plain = {"optimiser": "sgd", "lr": 1, "decay": "poly", "weight_decay": 0}
    given = [plain | one for one in recipe] if isinstance(recipe, list) else recipe
    with pytest.raises(UserError) as caught:
        make_experiment({"experiment": "a", "datasets": {"voc": {}}, "hsnet": {"recipe": given}}, "a.yaml")
    assert str(caught.value).startswith(f"datasets.voc: {told}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [("three", "*"), ("one", "o*", "*"), ("*", "one", "*")], ids=str)
def test_a_group_without_parameters_is_told(names: tuple[str, ...]) -> None:
    empty = {"three": "three", "one": "*"}.get(names[0], "one")
    with pytest.raises(UserError) as caught:
        trainer_of(tuple(group(names=pattern) for pattern in names))
    assert str(caught.value) == f"recipe: names: '{empty}' matches no parameter that earlier groups left; there are one, other"


def test_a_recipe_reruns_its_own_method_alone(tmp_path: Path) -> None:
    """And passes through a job's file as it is."""
    other = Settings.model_validate({"hsnet": {"recipe": (group("adamw"),)}})
    jobs = [(stage, method) for stage, found in STAGES.items() for method in (METHODS if found.method else (None,))]
    assert [job for job in jobs if settings_digest(other, *job) != settings_digest(Settings(), *job)] == [
        ("train", "hsnet"),
        ("evaluate", "hsnet"),
    ]
    path = tmp_path / "job.json"
    path.write_text(json.dumps(slice_settings(other, "train", "hsnet")))
    assert recipe_of(read_slice(path, "train", "hsnet"), "hsnet") == (group("adamw"),)
