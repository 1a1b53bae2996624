"""A recipe at work: which optimiser changes which weights, at which rate, and what it remembers of them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from symnet.config_methods import Group
from symnet.errors import UserError
from symnet.schedule import poly_rate


def members(recipe: Sequence[Group], parameters: Mapping[str, nn.Parameter]) -> list[list[nn.Parameter]]:
    """Of each group, the parameters that it trains: every one goes to the first group whose pattern its name matches.

    Raises `UserError` for a group that gets none.
    """
    found: list[list[nn.Parameter]] = [[] for _ in recipe]
    for name, parameter in parameters.items():
        found[next(i for i, group in enumerate(recipe) if fnmatchcase(name, group.names))].append(parameter)
    for group, own in zip(recipe, found, strict=True):
        if not own:
            there = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in parameters))
            raise UserError(f"recipe: names: '{group.names}' matches no parameter that earlier groups left; there are {there}")
    return found


def optimiser_of(group: Group, parameters: list[nn.Parameter]) -> Optimizer:
    """Of a group, over its parameters: one kernel for all of them, where there is one."""
    fused = parameters[0].is_cuda or None
    if group.optimiser in ("adam", "adamw"):
        kind = Adam if group.optimiser == "adam" else AdamW
        return kind(parameters, lr=group.lr, betas=(group.momentum, 0.999), weight_decay=group.weight_decay, fused=fused)
    nesterov = group.optimiser == "nesterov"
    return SGD(parameters, group.lr, group.momentum, weight_decay=group.weight_decay, nesterov=nesterov, fused=fused)


def rate(group: Group, step: int, steps: int) -> float:
    """The rate of a step, from 0."""
    if group.decay == "poly":
        return poly_rate(group.lr, step, steps, group.power)
    return group.lr / 10 ** (3 * step // steps if group.decay == "thirds" else 0)


def remembered(optimiser: Optimizer) -> dict[str, Tensor]:
    """Momentum, moments, counts of steps: `{number of the parameter}.{what}`."""
    return {f"{i}.{what}": value for i, kept in optimiser.state_dict()["state"].items() for what, value in kept.items()}


def remember(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `remembered` gave."""
    parameters = optimiser.param_groups[0]["params"]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, what = name.split(".")
        # in the parameter's own order of axes, as fused kernels ask; a count is put by the optimiser where it keeps it
        kept = value.clone() if what == "step" else torch.empty_like(parameters[int(number)]).copy_(value)
        state.setdefault(int(number), {})[what] = kept
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
