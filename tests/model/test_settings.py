"""What each switch of `ModelSettings` does to Sym-Net: parameters, losses, gradients; and what the public door refuses."""

import re

import pytest
import torch
from torch import Tensor, nn

from symnet.config import ModelSettings
from symnet.model import SymNet
from symnet.model.resize import default_scales

BASE_CLASSES, TEXT = 3, 6


def make(shot: int = 1, size: int = 33, scales: tuple[int, ...] | None = None, **settings: object) -> SymNet:
    """Small, with features of ordinary scale though nothing is loaded."""
    torch.manual_seed(0)
    model = SymNet(
        ModelSettings(**{"channels": 16} | settings),
        backbone="efficientnet_lite0",
        base_classes=BASE_CLASSES,
        shot=shot,
        text=TEXT,
        image_size=size,
        scales=scales,
    )
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if hasattr(model.head, "weigh"):  # its two hidden units may both start dead
        nn.init.constant_(model.head.weigh.layers[0].bias, 0.5)
    return model.eval()


def images(shot: int = 1, size: int = 33, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(batch, shot, size, size, dtype=torch.uint8)
    mask[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    mask[..., size // 4, :] = 255
    return {
        "query": torch.randn(batch, 3, size, size, generator=generator),
        "support": torch.randn(batch, shot, 3, size, size, generator=generator),
        "support_mask": mask,
        "text": torch.randn(batch, TEXT, generator=generator),
    }


def targets(size: int = 33, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "query_mask": torch.randint(0, 2, (batch, size, size), generator=generator, dtype=torch.uint8),
        "base_mask": torch.randint(0, BASE_CLASSES + 1, (batch, size, size), generator=generator, dtype=torch.uint8),
        "base_index": torch.arange(batch) % BASE_CLASSES,
    }


EVERY = {"ensemble", "meta", "inner", "base", "triplet"}
ATTENTION = {"align.query", "align.key", "align.project"}
FUSION = {"fuse.reduce2", "fuse.reduce3", "fuse.reduce4", "fuse.merge2", "fuse.merge3"}

# settings, shots; then of the head: parts beside reductions, decoder and ensemble; losses missing; parts of the objective missing
CASES = {
    "paper": ({}, 1, ATTENTION | FUSION | {"align.value"}, set(), {"meta", "base"}),
    "released": ({"variant": "released"}, 1, ATTENTION | FUSION | {"align.score"}, set(), set()),
    "paper, 3 shots": ({}, 3, ATTENTION | FUSION | {"align.value"}, set(), {"meta", "base"}),
    "released, 3 shots": ({"variant": "released"}, 3, ATTENTION | FUSION | {"align.score", "weigh.layers"}, set(), set()),
    "paper, gram weights": ({"shot_weights": "gram"}, 3, ATTENTION | FUSION | {"align.value", "weigh.layers"}, set(), {"meta", "base"}),
    "released, mean weights": ({"variant": "released", "shot_weights": "mean"}, 3, ATTENTION | FUSION | {"align.score"}, set(), set()),
    "paper, meta loss": ({"meta_loss": True}, 1, ATTENTION | FUSION | {"align.value"}, set(), {"base"}),
    "released, no meta loss": ({"variant": "released", "meta_loss": False}, 1, ATTENTION | FUSION | {"align.score"}, set(), {"meta"}),
    "paper, released attention": ({"attention": "released"}, 1, ATTENTION | FUSION | {"align.score"}, set(), {"meta", "base"}),
    "no triplet": ({"triplet": False}, 1, ATTENTION | FUSION | {"align.value"}, {"triplet"}, {"meta", "base"}),
    "no query prototype": ({"query_prototype": False}, 1, ATTENTION | FUSION | {"align.value"}, {"triplet"}, {"meta", "base"}),
    "no text": ({"text": False}, 1, ATTENTION | FUSION | {"align.value"}, set(), {"meta", "base"}),
    "support only": ({"text": False, "query_prototype": False}, 2, ATTENTION | FUSION | {"align.value"}, {"triplet"}, {"meta", "base"}),
    "no APA": ({"apa": False}, 2, FUSION, {"triplet"}, {"meta", "base"}),
    "no TDC": ({"tdc": False}, 1, ATTENTION | {"align.value"}, set(), {"meta", "base"}),
    "HPM": ({"prior": "hpm"}, 2, ATTENTION | FUSION | {"align.value"}, set(), {"meta", "base"}),
    "PFENet": ({"apa": False, "tdc": False, "prior": "pfenet"}, 1, set(), {"triplet"}, {"meta", "base"}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_switches(case: tuple[dict[str, object], int, set[str], set[str], set[str]]) -> None:
    settings, shot, parts, no_loss, not_in_objective = case
    model = make(shot, **settings)
    names = {".".join(name.split(".")[:2]) for name, _ in model.head.named_parameters()}
    decoder = {f"decode.{part}" for part in ("merge", "across", "refine", "inner", "join", "refine_joined", "classify")}
    assert names == parts | decoder | {"reduce_query.0", "reduce_support.0", "ensemble.with_psi", "ensemble.with_base"}

    losses = model.losses(**images(shot), **targets())
    assert losses.keys() == EVERY - no_loss
    objective = model.head.objective(losses)
    expected = sum(value.item() for name, value in losses.items() if name not in not_in_objective)
    assert objective.item() == pytest.approx(expected, rel=1e-6)

    objective.backward()
    unreached = {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)}
    assert unreached == set()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {f"head.{n}" for n, _ in model.head.named_parameters()}

    with torch.no_grad():
        out = model(**images(shot))
    assert (out.hyper is None) == (out.correlations is None) == (not model.settings.tdc)
    assert (out.query_prototype is None) == ("triplet" in no_loss and settings.get("triplet", True) is True)
    assert out.final.isfinite().all()


def test_widths() -> None:
    head = make(hyper_channels=32, text=True).head
    assert head.align.query.weight.shape == (16, 16 + TEXT)
    assert head.decode.merge[0].weight.shape == (16, 16 + 16 + 32 + 1, 1, 1)
    assert make(text=False).head.align.query.weight.shape == (16, 16)
    assert make(tdc=False).head.decode.merge[0].weight.shape == (16, 16 + 16 + 1, 1, 1)


def test_fusion_overrides_the_variant() -> None:
    assert make().head.fuse.merge3[0].in_channels == 32  # concatenation
    assert make(fusion="released").head.fuse.merge3[0].in_channels == 16  # sum


def test_text_is_read_only_where_it_is_on() -> None:
    given = images()
    other = given | {"text": given["text"] + 1}
    with torch.no_grad():
        for on in (True, False):
            model = make(text=on)
            assert torch.equal(model(**given).final, model(**other).final) == (not on)


def test_255_in_a_support_mask_is_background() -> None:
    model, given = make(2), images(2)
    assert (given["support_mask"] == 255).any()
    painted = given | {"support_mask": torch.where(given["support_mask"] == 255, 0, given["support_mask"])}
    with torch.no_grad():
        out, again = model(**given), model(**painted)
    assert torch.equal(out.final, again.final)
    assert torch.equal(out.prior, again.prior)
    losses, losses_again = model.losses(**given, **targets()), model.losses(**painted, **targets())
    assert {n: v.item() for n, v in losses.items()} == {n: v.item() for n, v in losses_again.items()}


@pytest.mark.parametrize("fill", [0, 1, 255])
def test_masks_of_one_value_train(fill: int) -> None:
    model, given = make(2).train(), images(2)
    given["support_mask"].fill_(fill)
    losses = model.losses(**given, **targets() | {"query_mask": torch.full((2, 33, 33), fill, dtype=torch.uint8)})
    assert {name: value.isfinite().item() for name, value in losses.items()} == dict.fromkeys(EVERY, True)
    if fill == 255:
        assert losses["ensemble"].item() == losses["meta"].item() == losses["inner"].item() == 0
    model.head.objective(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.head.parameters())


def test_only_the_head_trains() -> None:
    model = make().train()
    assert model.head.training
    assert not any(module.training for part in (model.backbone, model.base) for module in part.modules())
    means = {name: value.clone() for name, value in model.named_buffers()}
    model.losses(**images(), **targets())
    assert all(torch.equal(value, means[name]) for name, value in model.named_buffers())


def test_the_own_class_is_left_out_in_training_only() -> None:
    model, given = make(), images()
    (inputs, base), (training, _) = model.freeze(**given), model.freeze(**given, base_index=torch.tensor([0, 2]))
    own = base.softmax(1)[[0, 1], [1, 3]]
    torch.testing.assert_close(training.base, inputs.base - own)
    assert torch.equal(training.priors[0], inputs.priors[0])


@pytest.mark.parametrize(("size", "side"), [(33, 5), (97, 13), (161, 21)])
def test_sizes(size: int, side: int) -> None:
    shot = 2
    with torch.no_grad():
        out = make(shot, size)(**images(shot, size))
    assert out.final.shape == out.meta.shape == (2, 2, size, size)
    assert out.base.shape == (2, 1 + BASE_CLASSES, size, size)
    assert out.prior.shape == (2, 1, side, side)
    assert 0 <= out.prior.min() < out.prior.max() <= 1
    assert out.hyper.shape == (2, 48, side, side)
    assert [x.shape for x in out.correlations] == [(2, n, side, side) for n in (2, 6, 5)]
    assert out.support_prototypes.shape == (2, shot, 16)
    assert out.query_prototype.shape == (2, 16)
    assert out.shot_weights.tolist() == [[0.5, 0.5]] * 2


def test_scales() -> None:
    assert default_scales(60) == (60, 30, 15, 8)  # 473 px
    assert default_scales(81) == (81, 40, 20, 10)  # 641 px
    assert default_scales(25) == (25, 13, 7, 4)
    assert default_scales(5) == (5, 3, 2, 1)
    assert make(size=473).head.decode.scales == (60, 30, 15, 8)
    assert make(size=641).head.decode.scales == (81, 40, 20, 10)
    assert make(size=97, scales=(13, 6, 3, 2)).head.decode.scales == (13, 6, 3, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 32}, "image_size: found 32, allowed: 8n+1 from 33 up"),
        ({"size": 25}, "image_size: found 25, allowed: 8n+1 from 33 up"),
        ({"shot": 0}, "shot: found 0, allowed: 1 and more"),
        ({"scales": (5, 3, 2)}, "scales: found (5, 3, 2), allowed: 4 sides, the first 5"),
        ({"scales": (6, 3, 2, 1)}, "scales: found (6, 3, 2, 1), allowed: 4 sides, the first 5"),
    ],
)
def test_refuses_arguments(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("query", torch.zeros(2, 3, 41, 41), "query: found shape (2, 3, 41, 41), expected (2, 3, 33, 33)"),
        ("support", torch.zeros(2, 1, 3, 33, 33), "support: found shape (2, 1, 3, 33, 33), expected (2, 2, 3, 33, 33)"),
        ("support_mask", torch.zeros(2, 2, 5, 5), "support_mask: found shape (2, 2, 5, 5), expected (2, 2, 33, 33)"),
        ("support_mask", torch.full((2, 2, 33, 33), 7), "support_mask: found value 7, allowed: 0, 1, 255"),
        ("text", torch.zeros(2, 300), "text: found shape (2, 300), expected (2, 6)"),
        ("text", torch.zeros(1, 6), "text: found shape (1, 6), expected (2, 6)"),
        ("query_mask", torch.zeros(2, 5, 5), "query_mask: found shape (2, 5, 5), expected (2, 33, 33)"),
        ("query_mask", torch.full((2, 33, 33), 2), "query_mask: found value 2, allowed: 0, 1, 255"),
        ("base_mask", torch.full((2, 33, 33), 4), "base_mask: found value 4, allowed: 0 to 3, 255"),
        ("base_index", torch.tensor([0, 3]), "base_index: found value 3, allowed: 0 to 2"),
        ("base_index", torch.tensor([-1, 0]), "base_index: found value -1, allowed: 0 to 2"),
        ("base_mask", torch.zeros(2, 1, 33, 33), "base_mask: found shape (2, 1, 33, 33), expected (2, 33, 33)"),
        ("base_index", torch.zeros(2, 1), "base_index: found shape (2, 1), expected (2,)"),
    ],
)
def test_refuses_inputs_naming_them(name: str, wrong: Tensor, message: str) -> None:
    given = images(2) | targets() | {name: wrong}
    with pytest.raises(ValueError, match=re.escape(message)):
        make(2).losses(**given)
    if name in images():
        with pytest.raises(ValueError, match=re.escape(message)):
            make(2)(**{key: given[key] for key in images()})
