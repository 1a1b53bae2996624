"""Sampling of support positions by its counts, the cycle check against a double loop, attention against its definition."""

import pytest
import torch
from torch import Tensor

from symnet.model import cycle
from symnet.model.cycle import CycleAttention, Sampled, inconsistent, sample, shuffled, with_both_kinds
from symnet.model.transformer import EACH, CycleTransformer

CHANNELS = 16


def masks(*inside: int, count: int = 40, seed: int = 0) -> Tensor:
    """Rows of `count`, with so many inside."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.zeros(len(inside), count, dtype=torch.bool)
    for row, number in enumerate(inside):
        found[row, torch.randperm(count, generator=draw)[:number]] = True
    return found


@pytest.mark.parametrize(
    ("inside", "taken"),  # of 40 positions, 10 of each kind wanted
    [(20, (10, 10)), (4, (4, 16)), (33, (13, 7)), (0, (0, 20)), (40, (20, 0)), (10, (10, 10))],
)
def test_so_many_of_each_kind_are_sampled(inside: int, taken: tuple[int, int]) -> None:
    foreground = masks(inside)
    found = sample(foreground, shuffled(foreground), torch.tensor([[10]]), 20)
    assert found.valid.all()
    assert len(set(found.places[0].tolist())) == 20
    assert torch.equal(found.foreground, foreground.gather(1, found.places))
    assert (int(found.foreground.sum()), int((~found.foreground).sum())) == taken


def test_of_fewer_positions_all_are_sampled_and_the_rest_of_the_room_is_none() -> None:
    foreground = masks(3, 20, 31)
    found = sample(foreground, shuffled(foreground), torch.tensor([[4], [25], [10]]), 40)
    assert found.valid.sum(1).tolist() == [8, 40, 20]
    for row, number in enumerate(found.valid.sum(1).tolist()):
        assert found.valid[row, :number].all()  # what is none comes last
        assert len(set(found.places[row, :number].tolist())) == number
    assert found.foreground[:, :3].all()


def test_the_lowest_keys_are_taken_and_a_slip_reads_their_labels_elsewhere() -> None:
    """Four foreground positions at the end of ten, three of each kind wanted: the first ones of each list."""
    foreground = torch.tensor([[False] * 6 + [True] * 4])
    keys = torch.arange(10)[None]
    found = sample(foreground, keys, torch.tensor([[3]]), 6)
    assert found.places.tolist() == [[6, 7, 8, 0, 1, 2]]
    slipped = sample(foreground, keys, torch.tensor([[3]]), 6, slip=True)
    assert slipped.places.tolist() == found.places.tolist()
    assert slipped.foreground.tolist() == [[False] * 6]  # of the places 0, 1, 2 in the list of all
    whole = sample(~foreground, keys, torch.tensor([[7]]), 10, slip=True)  # six and four: neither is more than seven
    assert whole.foreground.tolist() == [[True] * 10]  # the background's are still read at 0 to 3
    few = sample(foreground, keys, torch.tensor([[4]]), 8, slip=True)
    assert few.foreground.tolist() == [[True] * 4 + [False] * 4]  # all of the foreground: nothing is drawn from it


def test_keys_shuffle_and_are_the_episodes_own() -> None:
    foreground = masks(9, 9, 30, count=3600)
    keys = shuffled(foreground)
    assert all(len(set(row.tolist())) == 3600 for row in keys)
    assert keys.min() >= 0
    assert keys.max() < 1 << 32
    assert torch.equal(shuffled(foreground[1:2])[0], keys[1])  # in any batch
    orders = keys.argsort(1).double()
    together = torch.corrcoef(torch.cat([orders, torch.arange(3600.0, dtype=torch.double)[None]]))
    assert (together - torch.eye(4)).abs().max() < 0.06  # three times the deviation of chance, 1 / 60


def test_masks_of_one_kind_get_some_of_the_other() -> None:
    foreground = torch.zeros(1, 3, 5, 6, dtype=torch.bool)
    foreground[0, 1] = True
    foreground[0, 2, 2, 2] = True
    found = with_both_kinds(foreground)[0]
    assert found[0].nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert (~found[1]).nonzero().tolist() == [[0, 0], [0, 5], [4, 0], [4, 5]]
    assert torch.equal(found[2], foreground[0, 2])


def test_the_cycle_by_a_double_loop() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 11, 4), torch.randn(2, 3, 7, 4)
    foreground, valid = torch.rand(2, 7) < 0.5, torch.rand(2, 7) < 0.8
    valid[:, 0] = True
    found = inconsistent(query, key, foreground, valid)
    for b in range(2):
        for h in range(3):
            known = [j for j in range(7) if valid[b, j]]
            for j in range(7):
                if not valid[b, j]:
                    assert not found[b, h, j]
                    continue
                there = max(range(11), key=lambda i: (query[b, h, i] @ key[b, h, j]).item())
                back = max(known, key=lambda k: (query[b, h, there] @ key[b, h, k]).item())
                assert found[b, h, j] == (foreground[b, j] != foreground[b, back])
    assert found.any()
    assert not found.all()
    for budget in (1, 100):
        assert torch.equal(inconsistent(query, key, foreground, valid, budget), found)


def sampled(batch: int, tokens: int, valid: int) -> Sampled:
    draw = torch.Generator().manual_seed(1)
    index = torch.arange(tokens).expand(batch, -1)
    return Sampled(index, torch.rand(batch, tokens, generator=draw) < 0.5, (index < valid))


@torch.no_grad()
def test_attention_reads_consistent_positions_alone() -> None:
    torch.manual_seed(2)
    attend = CycleAttention(CHANNELS).eval()
    x, support, chosen = torch.randn(2, 3, 3, CHANNELS), torch.randn(2, 9, CHANNELS), sampled(2, 9, 7)
    found, wrong = attend(x, support, chosen)
    assert wrong.any()
    assert not wrong[:, :, 7:].any()
    for b in range(2):
        heads = []
        for h in range(cycle.HEADS):
            part = slice(2 * h, 2 * h + 2)
            open_ = chosen.valid[b] & ~wrong[b, h]
            assert open_.any()
            q, k, v = (attend.query(x[b])[..., part], attend.key(support[b])[open_][:, part], attend.value(support[b])[open_][:, part])
            heads.append((q @ k.T / 2**0.5).softmax(-1) @ v)
        torch.testing.assert_close(found[b], attend.project(torch.cat(heads, -1)))
    changed = support.clone()
    changed[:, 7:] = 5.0  # not valid
    torch.testing.assert_close(attend(x, changed, chosen)[0], found)


def test_in_training_on_a_cpu_attention_may_be_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which change nothing but the draws of the dropout; without it, answer and gradients are those of a whole."""
    torch.manual_seed(3)
    attend = CycleAttention(CHANNELS).train()
    attend.drop_flags.p = attend.drop.p = 0.0
    attend.drop_weights.p = 1e-9  # drops nothing here, and is dropout
    x, support, chosen = torch.randn(1, 4, 4, CHANNELS), torch.randn(1, 9, CHANNELS), sampled(1, 9, 9)
    found = {}
    monkeypatch.setattr(cycle, "BUDGET", 1)
    for kept in (cycle.KEPT, 1):
        monkeypatch.setattr(cycle, "KEPT", kept)
        attend.zero_grad()
        answer = attend(x, support, chosen)[0]
        answer.square().sum().backward()
        found[kept] = [answer, *(p.grad for p in attend.parameters())]
    attend.eval()
    torch.testing.assert_close(found[1], found[1 << 26])
    torch.testing.assert_close(found[1][0], attend(x, support, chosen)[0])


def test_dropped_flags_let_some_in() -> None:
    torch.manual_seed(4)
    attend = CycleAttention(CHANNELS).train()
    attend.drop.p = attend.drop_weights.p = 0.0
    x, support, chosen = torch.randn(1, 2, 2, CHANNELS), torch.randn(1, 30, CHANNELS), sampled(1, 30, 30)
    attend.drop_flags.p = 1.0
    every, wrong = attend(x, support, chosen)
    assert wrong.any()
    none_shut = attend.eval()(x, support, chosen._replace(foreground=torch.ones(1, 30, dtype=torch.bool)))
    assert not none_shut[1].any()
    torch.testing.assert_close(every, none_shut[0])


@torch.no_grad()
@pytest.mark.parametrize("sampling", ["random", "first"])
def test_a_test_samples_an_episode_alike_in_any_batch(sampling: str) -> None:
    torch.manual_seed(5)
    transform = CycleTransformer(CHANNELS, sampling, slip=False).eval()  # type: ignore[arg-type]
    side = 26  # more positions than are sampled
    query, support = torch.randn(3, CHANNELS, 4, 4), torch.randn(3, 1, CHANNELS, side, side)
    foreground = torch.rand(3, 1, side, side) < torch.tensor([0.1, 0.5, 0.9])[:, None, None, None]
    found, traces = transform(query, support, foreground)
    alone, trace = transform(query[1:2], support[1:2], foreground[1:2])
    torch.testing.assert_close(alone[0], found[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(trace[1].inconsistent[0], traces[1].inconsistent[1])
    assert traces[0].inconsistent.shape == (3, cycle.HEADS, 2 * EACH)


def test_in_training_samples_are_drawn_anew_in_number_and_place() -> None:
    torch.manual_seed(6)
    transform = CycleTransformer(CHANNELS, "random", slip=False).train()
    for shots, low, high in ((1, 0.6, 4.0), (5, 0.6, 1.4)):
        inside = torch.rand(50, 3000 * shots) < 0.5
        one, other = (transform._sample(inside, shots) for _ in range(2))
        for found in (one, other):
            numbers = found.valid.sum(1)
            assert found.valid.shape[1] == numbers.max()
            assert numbers.min() >= 2 * EACH * shots * low - 2
            assert numbers.max() <= 2 * EACH * shots * high
            assert len(numbers.unique()) > 25
            assert torch.equal((found.foreground & found.valid).sum(1), numbers // 2)
        assert not torch.equal(one.valid.sum(1), other.valid.sum(1))
        assert not torch.equal(one.places[:, 0], other.places[:, 0])
