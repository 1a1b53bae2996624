"""A batch in micro-batches: losses and gradients add up to the whole batch's, where plain averages do not."""

import pytest
import torch
from torch import Tensor

from symnet.backbones.base import Backbone, Levels
from symnet.config import Settings
from symnet.errors import UserError
from symnet.experiment import make_experiment
from symnet.methods.base import EpisodeBatch
from symnet.methods.symnet import SymNetMethod
from symnet.model.divisors import Divisors, divisors_of

SIZE, SIDE, BATCH, SHOTS = 49, 7, 4, 2


class Plain(Backbone):
    """Three block maps; every level is the last."""

    block_channels = (6, 6, 6)
    groups = (1, 1, 1)
    low_channels = mid_channels = high_channels = 6

    def levels(self, blocks: list[Tensor]) -> Levels:
        return Levels(*[blocks[-1]] * 3)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(masks: str) -> EpisodeBatch:
    """Four episodes. Their queries and supports are alike in what is known and usable, or, as in real crops, are not."""
    draw = torch.Generator().manual_seed(5)
    query_mask = (torch.rand(BATCH, SIZE, SIZE, generator=draw) < 0.3).to(torch.uint8)
    support_mask = (torch.rand(BATCH, SHOTS, SIZE, SIZE, generator=draw) < 0.5).to(torch.uint8)
    if masks != "even":
        query_mask[0, 3:] = 255  # hardly a pixel known
        query_mask[1] = 0  # no foreground
        support_mask[0, 0] = 0  # no foreground: no triplet
        support_mask[1, 1] = 1  # no background: none
        support_mask[2, 1] = 255  # counts as background
    if masks == "a part has nothing":
        query_mask[:2] = 255
        support_mask[:2] = 0
    return EpisodeBatch(
        query=[randn(BATCH, 6, SIDE, SIDE, seed=i) for i in range(3)],
        support=[randn(BATCH, SHOTS, 6, SIDE, SIDE, seed=i) for i in range(3, 6)],
        query_mask=query_mask,
        support_mask=support_mask,
        base_logits=randn(BATCH, 4, SIDE, SIDE, seed=6),
        text=randn(BATCH, 3, seed=7),
        base_index=torch.tensor([0, 1, 2, 0]),
    )


def part_of(batch: EpisodeBatch, rows: slice) -> EpisodeBatch:
    held = {name: value for name, value in vars(batch).items() if isinstance(value, (list, torch.Tensor))}
    return EpisodeBatch(**{name: [m[rows] for m in value] if isinstance(value, list) else value[rows] for name, value in held.items()})


def method_of(variant: str) -> SymNetMethod:
    torch.manual_seed(0)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, "model": {"variant": variant, "channels": 8, "hyper_channels": 4}})
    method = SymNetMethod(settings, Plain(), SHOTS, 3, SIDE).double()
    for module in method.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0
    return method


Result = tuple[dict[str, float], dict[str, Tensor]]


def computed(method: SymNetMethod, batch: EpisodeBatch, parts: int, divisors: Divisors | None, share: float = 1.0) -> Result:
    """Summed losses and gradients of `parts` micro-batches, each loss times `share`."""
    method.zero_grad(set_to_none=True)
    losses: dict[str, float] = {}
    size = BATCH // parts
    for start in range(0, BATCH, size):
        objective, found, _ = method.losses(Plain(), part_of(batch, slice(start, start + size)), divisors)
        (objective * share).backward()
        for name, value in {"loss": objective, **found}.items():
            losses[name] = losses.get(name, 0.0) + value.item() * share
    return losses, {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def largest_error(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of a parameter's gradient, relative to its norm."""
    assert ours.keys() == expected.keys()
    return max(float((ours[name] - grad).norm() / (grad.norm() + 1e-6)) for name, grad in expected.items())


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("masks", ["even", "uneven", "a part has nothing"])
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_add_up_to_the_batch(variant: str, masks: str, parts: int) -> None:
    method, batch = method_of(variant), batch_of(masks)
    losses, gradients = computed(method, batch, 1, None)
    divisors = method.divisors(batch.query_mask, batch.support_mask)
    ours, ours_gradients = computed(method, batch, parts, divisors)
    assert ours == pytest.approx(losses, rel=1e-6, abs=1e-7)
    assert largest_error(ours_gradients, gradients) < 1e-4  # cross-entropy is computed in float32
    averaged, averaged_gradients = computed(method, batch, parts, None, 1 / parts)
    if masks != "even":
        assert abs(averaged["loss"] / losses["loss"] - 1) > 1e-3
        assert largest_error(averaged_gradients, gradients) > 0.1


@pytest.mark.parametrize("masks", ["even", "uneven", "a part has nothing"])
def test_a_batch_s_own_divisors_change_nothing(masks: str) -> None:
    method, batch = method_of("paper"), batch_of(masks)
    losses, gradients = computed(method, batch, 1, None)
    again, same = computed(method, batch, 1, method.divisors(batch.query_mask, batch.support_mask))
    assert again == losses
    assert all(torch.equal(same[name], value) for name, value in gradients.items())


def test_divisors_by_hand() -> None:
    batch = batch_of("uneven")
    found = divisors_of(batch.query_mask, batch.support_mask, SIDE)
    assert found.pixels.item() == 3 * SIZE + 3 * SIZE * SIZE
    assert found.episodes == 4
    assert found.usable.tolist() == [3, 2]  # without the first support of episode 0; without the second of episodes 1 and 2


def test_a_batch_that_cannot_be_cut_evenly_is_refused() -> None:
    with pytest.raises(UserError, match=r"train: batch_size \(8\) must be divisible by accumulate \(3\)"):
        make_experiment({"experiment": "a", "datasets": {"d": {}}, "train": {"accumulate": 3}}, "a.yaml")
