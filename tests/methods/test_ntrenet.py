"""NTRENet's own parts against plain twins written from its description: there are no outputs of its released code."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from symnet import train
from symnet.artifacts import file_digest
from symnet.checkpoint import load_tensors
from symnet.config_methods import NTRENetSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.ntrenet import NTRENetHead, NTRENetMethod, NTRENetOutput
from symnet.model.background import background_loss
from symnet.model.elimination import confusion
from symnet.model.memory import contrast
from symnet.model.segmentation import cross_entropy
from symnet.parallel import ALONE
from symnet.runtime import StopSignal
from tests.bench import Bench
from tests.methods.guided_batch import BATCH, OWN, SHOTS, SIDE, Plain, batch_of, method_of, part, turned

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once


@pytest.fixture
def method() -> NTRENetMethod:
    """One that takes half of all positions for background, for the target at every scale, and in its answer."""
    found = method_of("ntrenet")
    assert isinstance(found, NTRENetMethod)
    head = found.head
    with torch.no_grad():
        head.background.copy_(torch.randn(8, generator=torch.Generator().manual_seed(8)))
        out = answered(found, batch_of())
        for classify, logits in zip((head.find_background.classify, *head.decode.initial), (out.background, *out.initial), strict=True):
            classify[-1].bias[1] -= (logits[:, 1] - logits[:, 0]).median()
        logits = answered(found, batch_of()).prediction
        head.decode.classify[-1].bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    return found


def step(method: NTRENetMethod, batch: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Objective and parts of a whole step."""
    method.begin_step(BATCH)
    objective, parts, _ = method.losses(Plain(), batch)
    method.end_step(ALONE)
    return objective, parts


def answered(method: NTRENetMethod, batch: EpisodeBatch) -> NTRENetOutput:
    return method.answer(method.head, method.freeze(Plain(), batch), in_training=True)


def beside(x: Tensor, vector: Tensor) -> Tensor:
    return torch.cat([x, vector.expand(len(x), -1)[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


def resized(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def test_parameters_are_as_many_as_its_layers_have() -> None:
    """PFENet's; at each of four scales two 1x1 convolutions, two 3x3, a classifier; what finds background, and its vector."""
    residual, classifier, merge = 2 * 9 * 256 * 256, 9 * 256 * 256 + 2 * 256 + 2, 512 * 256
    expected = 10_817_034 + 4 * (2 * merge + residual + classifier) + merge + residual + classifier + 256
    head = NTRENetHead(NTRENetSettings(), 1536, (60, 30, 15, 8))
    assert sum(p.numel() for p in head.parameters()) == expected
    assert torch.equal(head.background, torch.zeros(256))


@torch.no_grad()
def test_every_step_of_the_head_by_its_plain_twin(method: NTRENetMethod) -> None:
    """Vectors are tiled and put beside the maps, as they are described."""
    head, batch = method.head, batch_of()
    out, inputs = answered(method, batch), method.freeze(Plain(), batch)
    query, decode = head.reduce_query(inputs.query_mid), head.decode
    support = head.reduce_support(inputs.support_mid.flatten(0, 1)).unflatten(0, (BATCH, SHOTS))
    weights = inputs.mask.double().unsqueeze(2)  # [B, K, 1, H, W]
    vector = ((support * weights).sum((3, 4)) / (weights.sum((3, 4)) + 5e-4)).mean(1)
    torch.testing.assert_close(out.support_prototype, vector)
    prior = inputs.priors[0].mean(1, keepdim=True)

    def found(x: Tensor) -> Tensor:
        finder = head.find_background
        y = F.relu(F.conv2d(beside(x, head.background), finder.merge[0].weight))
        return finder.classify(y + finder.refine(y))

    background = found(query)
    torch.testing.assert_close(out.background, background)
    torch.testing.assert_close(out.support_background, torch.stack([found(support[:, k]) for k in range(SHOTS)], 1))
    finer, maps = torch.zeros(0), []
    assert decode.scales == (9, 5, 3, 2)
    for n, scale in enumerate(decode.scales):
        pooled = F.adaptive_avg_pool2d(query, scale)
        x = F.relu(decode.without_background[n](beside(pooled, head.background)))
        x = F.relu(decode.merge[n](torch.cat([beside(x, vector), resized(prior, scale)], 1)))
        x = x + decode.refine_initial[n](x)
        initial = decode.initial[n](x)
        torch.testing.assert_close(out.initial[n], initial)
        neither = F.relu(1 - resized(background, scale).argmax(1) - initial.argmax(1)).double()  # [B, s, s]
        assert 0 < neither.mean() < 1
        x = F.relu(decode.without_confusion[n](beside(x, F.adaptive_avg_pool2d(pooled * neither.unsqueeze(1), 1).flatten(1))))
        if n:
            x = x + F.relu(decode.across[n - 1](torch.cat([x, resized(finer, scale)], 1)))
        x = x + decode.refine[n](x)
        torch.testing.assert_close(out.inner[n], decode.inner[n](x))
        finer = resized(x, SIDE)
        maps.append(finer)
    x = F.relu(decode.join(torch.cat(maps, 1)))
    torch.testing.assert_close(out.prediction, decode.classify(x + decode.refine_joined(x)))


def test_confusion_by_positions() -> None:
    draw = torch.Generator().manual_seed(1)
    query, background, initial = (torch.randn(2, c, 3, 3, generator=draw) for c in (4, 2, 2))
    found = confusion(query, background, initial)
    for n in range(2):
        expected = torch.zeros(4)
        for y in range(3):
            for x in range(3):
                if background[n, 0, y, x] >= background[n, 1, y, x] and initial[n, 0, y, x] >= initial[n, 1, y, x]:
                    expected += query[n, :, y, x] / 9
        assert expected.any()
        torch.testing.assert_close(found[n], expected)


def test_the_objective_is_the_sum_of_its_parts(method: NTRENetMethod) -> None:
    batch = batch_of()
    assert step(method, batch)[1]["contrast"].item() == 0  # nothing to compare with yet
    objective, parts = step(method, batch)
    torch.testing.assert_close(objective, torch.stack(list(parts.values())).sum())
    out, truth = answered(method, batch), batch.query_mask.long()
    background = torch.stack([background_loss(out.background[n : n + 1], truth[n : n + 1]) for n in range(BATCH)]).sum()
    for k in range(SHOTS):
        background = background + background_loss(out.support_background[:, k], batch.support_mask[:, k])
    expected = {
        "prediction": cross_entropy(out.prediction, truth),
        "background": background / (BATCH * (1 + SHOTS)),
        "inner": 0.4 * sum(cross_entropy(one, truth) for one in out.inner) / 4,
        "initial": 0.6 * sum(cross_entropy(one, truth) for one in out.initial) / 4,
    }
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value.item(), rel=1e-6), name
    again = method_of("ntrenet")  # with the memory as it was
    again.load_state_dict(method.state_dict())
    again.memory.count.zero_()
    step(again, batch)
    losses = []
    for n, own in enumerate(OWN):
        predicted = out.prediction[n].argmax(0) == 1
        anchor = out.query[n][:, predicted].sum(1) / (predicted.sum() + 5e-4)
        memory = again.memory.vectors[own, : again.memory.count[own]][None]
        losses.append(contrast(anchor[None], out.support_prototype[n : n + 1], memory, torch.ones(memory.shape[:2]).bool()))
    assert torch.cat(losses).abs().min() > 0
    assert parts["contrast"].item() == pytest.approx(0.01 * torch.cat(losses).mean().item(), rel=1e-9)


def test_what_distracts_is_remembered(method: NTRENetMethod) -> None:
    """Of every image the average where the truth has background that was not found, by class, in order."""
    batch = batch_of()
    out = answered(method, batch)
    step(method, batch)
    expected: dict[int, list[Tensor]] = {own: [] for own in OWN}
    for n, own in enumerate(OWN):
        images = [(out.query[n], out.background[n], batch.query_mask[n])]
        images += [(out.support[n, k], out.support_background[n, k], batch.support_mask[n, k]) for k in range(SHOTS)]
        for features, background, mask in images:
            places = (mask[::8, ::8] == 0) & (background.argmax(0) == 0)
            if places.any():
                expected[own].append(features[:, places].sum(1) / (places.sum() + 5e-4))
    assert method.memory.count.tolist() == [len(expected.get(c, [])) for c in range(15)]
    assert int(method.memory.count.sum()) > BATCH
    for own, vectors in expected.items():
        torch.testing.assert_close(method.memory.vectors[own, : len(vectors)], torch.stack(vectors))


def test_a_step_in_parts_is_the_step(method: NTRENetMethod) -> None:
    """Losses, gradients, and what is remembered; nothing of a step is seen by its later parts."""
    batch, backbone = batch_of(), Plain()
    divisors = method.divisors(batch.query_mask, batch.support_mask)
    step(method, batch)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    found = []
    for rows in ([slice(0, 4)], [slice(0, 1), slice(1, 4)]):
        method.load_state_dict(before)
        method.zero_grad()
        method.begin_step(BATCH)
        total: dict[str, float] = {}
        for piece in rows:
            objective, parts, _ = method.losses(backbone, part(batch, piece), divisors)
            objective.backward()
            total = {name: total.get(name, 0.0) + value.item() for name, value in parts.items()}
        method.end_step(ALONE)
        gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        memory = {name: value.clone() for name, value in method.memory.state_dict().items()}
        found.append((total, gradients, memory))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert found[0][0]["contrast"] > 0
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert found[0][2]["count"].sum() == 2 * before["memory.count"].sum() > 0


def test_every_weight_learns(method: NTRENetMethod) -> None:
    step(method, batch_of())[0].backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_order_of_the_shots_does_not_matter(method: NTRENetMethod) -> None:
    batch = batch_of()
    step(method, batch)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    _, parts = step(method, batch)
    method.load_state_dict(state)
    _, again = step(method, turned(batch))
    assert {name: value.item() for name, value in again.items()} == pytest.approx({name: value.item() for name, value in parts.items()})
    assert parts["contrast"].item() > 0
    predicted = [method.predict(Plain(), one)["prediction"] for one in (batch, turned(batch))]
    torch.testing.assert_close(*predicted)


def test_a_run_that_is_stopped_and_resumed_remembers_the_same(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, in two parts a step; draws included, of which there are fewer than what is held."""
    monkeypatch.setattr("symnet.methods.ntrenet.DRAWN", 1)
    settings = {"method": "ntrenet", "selection": "last", "accumulate": 2}
    whole = bench.train(tmp_path / "whole.safetensors", **settings)
    seen = iter([False, True])  # asked once a step
    with monkeypatch.context() as patched:
        patched.setattr(StopSignal, "requested", property(lambda _: next(seen, True)))
        with pytest.raises(train.Stopped, match="at step 2 of 6"):
            bench.train(tmp_path / "parts.safetensors", **settings)
    assert file_digest(bench.train(tmp_path / "parts.safetensors", **settings)) == file_digest(whole)
    count = load_tensors(whole, "train")[0]["memory.count"]
    assert int(count.max()) > 1
    assert 12 < int(count.sum()) <= 6 * 2 * 2  # of six steps of two episodes of two images
