"""HPA's own parts against plain twins written from its description: there are no outputs of its released code."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.base_learner import load_base
from symnet.checkpoint import load_tensors
from symnet.class_prototypes import class_prototypes
from symnet.config_methods import HPASettings
from symnet.data.episodes import holdout
from symnet.data.folds import read_fold_list
from symnet.features import FeatureCache
from symnet.methods.base import EpisodeBatch
from symnet.methods.hpa import HPAHead, HPAInputs, HPAMethod, HPAOutput, squared_error
from symnet.model.activation import PrototypeActivation
from symnet.model.channels import ChannelAttention
from symnet.model.resize import resize
from symnet.model.segmentation import cross_entropy
from symnet.parallel import ALONE, Ranks
from symnet.sources import CacheSource
from tests.bench import CPU, Bench
from tests.methods.guided_batch import BATCH, OWN, SHOTS, Plain, batch_of, method_of, part, turned

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once


def prepared(**own: object) -> HPAMethod:
    """With prototypes, those of the episodes' own classes near the queries; and a share of the support in the attention."""
    method = method_of("hpa", **own)
    assert isinstance(method, HPAMethod)
    prototypes = 4 * randn(15, 11, seed=8)
    prototypes[list(set(OWN))] *= 0.1
    method.prepare(lambda: prototypes)
    with torch.no_grad():
        method.head.attend.share.fill_(0.3)
    various(method.head.activate)
    return method


@torch.no_grad()
def various(activate: PrototypeActivation) -> PrototypeActivation:
    """With weights that make the nearest prototype win, by the first four channels: who wins changes from place to place."""
    of_query, of_prototype = activate.merge.weight[:, :, 0, 0].chunk(2, 1)  # [8, C] each
    for i in range(8):
        of_query[i, i % 4] += 1 if i < 4 else -1
        of_prototype[i, i % 4] -= 1 if i < 4 else -1
    activate.score.weight.sub_(1)
    activate.score.bias.add_(2)
    return activate


def inputs_of(method: HPAMethod, batch: EpisodeBatch) -> HPAInputs:
    return method.freeze(Plain(), batch)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activation() -> PrototypeActivation:
    torch.manual_seed(2)
    return various(PrototypeActivation(4).double())


def test_parameters_are_as_many_as_its_layers_have() -> None:
    """Three reductions; the relation; what is merged; ASPP, joined; the share, low features, both fused; two 3x3, a classifier."""
    relation, merge, aspp = (512 * 8 + 8) + (8 + 1), 514 * 256, 2 * (256 * 256 + 256) + 3 * (9 * 256 * 256 + 256) + 1280 * 256
    fuse, end = 1 + 512 * 48 + 9 * 304 * 256, 2 * 9 * 256 * 256 + (9 * 256 * 256 + 2 * 256 + 2)
    head = HPAHead(HPASettings(), 1536, 512, 15)
    assert sum(p.numel() for p in head.parameters()) == 3 * 1536 * 256 + relation + merge + aspp + fuse + end == 6_039_828


@torch.no_grad()
def test_relations_are_those_of_tiled_prototypes() -> None:
    activate, query, prototypes = activation(), randn(2, 4, 3, 3, seed=1), randn(2, 5, 4, seed=2)
    found = activate.relations(query, prototypes)
    for p in range(5):
        beside = torch.cat([query, prototypes[:, p, :, None, None].expand(-1, -1, 3, 3)], 1)
        expected = activate.score(F.relu(activate.merge(beside))).sigmoid().squeeze(1)
        torch.testing.assert_close(found[:, p], expected.float())


@torch.no_grad()
@pytest.mark.parametrize("targets", [1, 2])
def test_winners_by_positions(targets: int) -> None:
    activate, query, target, others = activation(), randn(3, 4, 5, 5, seed=1), randn(3, targets, 4, seed=2), randn(6, 4, seed=3)
    excluded = torch.zeros(3, 6, dtype=torch.bool)
    excluded[0, 2] = excluded[2, 5] = True
    found = activate(query, target, others, excluded)
    wins = {"target": 0, "others": 0}
    for n in range(3):
        competing = [v for i, v in enumerate(others) if not excluded[n, i]]
        every = torch.stack([*target[n], *competing])
        relations = activate.relations(query[n : n + 1], every[None])[0]
        for y in range(5):
            for x in range(5):
                best = int(relations[:, y, x].argmax())
                torch.testing.assert_close(found.prototypes[n, :, y, x], every[best])
                ours = best < targets
                wins["target" if ours else "others"] += 1
                assert found.probability[n, 0, y, x].item() == (relations[best, y, x].item() if ours else 0)
    assert min(wins.values()) > 5, wins


def test_of_equals_the_target_s_wins_and_the_winner_learns() -> None:
    activate, query, target = activation(), randn(1, 4, 2, 2, seed=1), randn(1, 1, 4, seed=2).requires_grad_()
    others = target.detach()[0].clone().requires_grad_()
    probability, prototypes = activate(query, target, others, torch.zeros(1, 1, dtype=torch.bool))
    assert probability.min() > 0
    (probability.sum() + prototypes.sum()).backward()
    assert target.grad is not None
    assert others.grad is not None
    assert target.grad.abs().min() > 0
    assert not others.grad.any()


def test_channel_attention_by_channels() -> None:
    attend, query, support = ChannelAttention().double(), randn(2, 3, 2, 2, seed=1), randn(2, 3, 2, 2, seed=2)
    assert attend.share.tolist() == [0]
    for share in (0.0, 0.5):
        with torch.no_grad():
            attend.share.fill_(share)
        found = attend(query, support)
        for n in range(2):
            for i in range(3):
                rows = []
                for keys in (query, support):
                    common = [(keys[n, i] * query[n, j]).sum() for j in range(3)]
                    weights = [(max(common) - value).exp() for value in common]
                    rows.append(sum(w * query[n, j] for j, w in enumerate(weights)) / sum(weights))
                torch.testing.assert_close(found[n, i], query[n, i] + (rows[0] + share * rows[1]) / (1 + share))
    attend(query, support).square().sum().backward()
    assert attend.share.grad is not None
    assert attend.share.grad.abs() > 0


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_every_step_of_the_head_by_its_plain_twin(training: bool) -> None:
    method, batch = prepared(), batch_of()
    head, inputs = method.head, inputs_of(method, batch)
    out = method.answer(head, inputs, in_training=training)
    query = head.reduce_query(inputs.query_mid)
    support = head.reduce_support(inputs.support_mid.flatten(0, 1)).unflatten(0, (BATCH, SHOTS))
    weights = inputs.mask.double().unsqueeze(2)
    vector = ((support * weights).sum((3, 4)) / (weights.sum((3, 4)) + 5e-4)).mean(1)  # [B, C]
    bases = F.relu(head.prototypes @ head.reduce_prototypes[0].weight[:, :, 0, 0].T)
    prior = inputs.priors[0].mean(1, keepdim=True)
    attended = F.relu(head.reduce_low(head.attend(batch.query[0], batch.support[0].mean(1))))
    assert 0.05 < (out.probability > 0).double().mean() < 0.9
    for n, own in enumerate(OWN):
        targets = torch.stack([vector[n], bases[own]] if training else [vector[n]])[None]
        others = torch.stack([v for i, v in enumerate(bases) if i != own])
        q = query[n : n + 1]
        probability, winners = head.activate(q, targets, others, torch.zeros(1, 14, dtype=torch.bool))
        torch.testing.assert_close(out.probability[n : n + 1], probability)
        x = F.relu(head.join(head.aspp(F.relu(head.merge(torch.cat([q, winners, prior[n : n + 1], probability], 1))))))
        x = F.relu(head.fuse(torch.cat([x, attended[n : n + 1]], 1)))
        torch.testing.assert_close(out.prediction[n : n + 1], head.classify(x + head.refine(x)), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_all_base_classes_compete_with_a_novel_one() -> None:
    """The support's prototype stands alone, and a prototype like it may win."""
    method, batch = prepared(), batch_of()
    novel = replace(batch, base_index=torch.full((BATCH,), -1))
    one, two = (method.answer(method.head, inputs_of(method, b)).probability for b in (batch, novel))
    assert (two <= one).all()
    assert (two < one).any()
    asked = [method.predict(Plain(), b)["prediction"] for b in (batch, novel)]
    method.head.prototypes.mul_(1000)  # none of them wins
    alone = [method.predict(Plain(), b)["prediction"] for b in (batch, novel)]
    torch.testing.assert_close(*alone)
    assert all(not torch.allclose(one, two, atol=1e-3) for one, two in zip(asked, alone, strict=True))


def test_squared_error_by_pixels() -> None:
    p, target = (
        torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 1, 255])[torch.arange(50).view(2, 5, 5) % 3],
    )
    large, total, known = resize(p[:, None], 5)[:, 0], 0.0, 0
    for n in range(2):
        for y in range(5):
            for x in range(5):
                if target[n, y, x] != 255:
                    total, known = total + (large[n, y, x].item() - int(target[n, y, x])) ** 2, known + 1
    assert 0 < known < 50
    assert squared_error(p, target).item() == pytest.approx(total / known, rel=1e-5)
    assert squared_error(p, target, torch.tensor(100)).item() == pytest.approx(total / 100, rel=1e-5)
    assert squared_error(p, torch.full((2, 5, 5), 255)).item() == 0


@pytest.mark.parametrize("auxiliary", ["mse", "cross_entropy"])
def test_the_objective_is_the_sum_of_its_parts(auxiliary: str) -> None:
    method, batch = prepared(auxiliary=auxiliary, weight=0.4), batch_of()
    objective, parts, _ = method.losses(Plain(), batch)
    torch.testing.assert_close(objective, torch.stack(list(parts.values())).sum())
    out: HPAOutput = method.answer(method.head, inputs_of(method, batch), in_training=True)
    truth, p = batch.query_mask.long(), out.probability
    expected = squared_error(p.squeeze(1), truth) if auxiliary == "mse" else cross_entropy(torch.cat([1 - p, p], 1), truth)
    assert parts["auxiliary"].item() == pytest.approx(0.4 * expected.item(), rel=1e-6)
    assert parts["prediction"].item() == pytest.approx(cross_entropy(out.prediction, truth).item(), rel=1e-6)
    divisors = method.divisors(batch.query_mask, batch.support_mask)
    pieces = [method.losses(Plain(), part(batch, rows), divisors)[1] for rows in (slice(0, 1), slice(1, 4))]
    for name, value in parts.items():
        assert sum(piece[name].item() for piece in pieces) == pytest.approx(value.item(), rel=1e-5)


def test_every_weight_learns() -> None:
    method = prepared()
    method.losses(Plain(), batch_of())[0].backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert {name for name, _ in method.named_buffers()} == {"head.prototypes"}


@torch.no_grad()
def test_the_order_of_the_shots_does_not_matter() -> None:
    method = prepared()
    predicted = [method.predict(Plain(), one)["prediction"] for one in (batch_of(), turned(batch_of()))]
    torch.testing.assert_close(*predicted)


# --- where the prototypes come from


class Half(Ranks):
    """One of two processes, which is told what the other has."""

    def sum(self, values: list[Tensor]) -> None:
        for value in values:
            value += OTHERS.pop() if OTHERS else 0
            OTHERS.append(value.clone())


OTHERS: list[Tensor] = []


def test_prototypes_are_means_of_masked_averages(bench: Bench, tmp_path: Path) -> None:
    """Of the cache's only view of every training image, and none of a held-out one; by two processes as by one; and in the model file."""
    settings, base = bench.settings("train", "hpa"), load_base(bench.inputs.base).to(CPU)
    train_list, held = holdout(read_fold_list(bench.list("train")), settings.base.holdout, settings.base.seed)
    assert len(held.rows) > 3
    cache = FeatureCache(bench.root / "features_train.json")
    expected = []
    for wanted in base.classes:
        vectors = []
        for row in train_list.rows:
            if wanted in row.classes:
                at = [cache.rows[row.image, 0]]
                inside = cache.read(at, ["mask"])["mask"][0, ::8, ::8] == wanted
                if inside.any():
                    features = base.backbone.levels(cache.split(cache.maps(at))).mid[0]
                    vectors.append(features[:, inside].sum(1) / (inside.sum() + 5e-4))
        expected.append(torch.stack(vectors).mean(0) if vectors else torch.zeros(base.backbone.mid_channels))
    assert sum(vector.any().item() for vector in expected) > 5
    source = CacheSource(bench.root / "features_train.json", CPU)
    found = class_prototypes(source, base, train_list, 0, ALONE)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
    OTHERS.clear()
    halves = [class_prototypes(source, base, train_list, 0, Half(rank, 2)) for rank in range(2)]
    assert not torch.allclose(halves[0], found, rtol=1e-2)
    torch.testing.assert_close(halves[1], found, rtol=1e-4, atol=1e-5)
    model = bench.train(tmp_path / "model.safetensors", method="hpa", steps=1, selection="last")
    torch.testing.assert_close(load_tensors(model, "train")[0]["head.prototypes"], found)
