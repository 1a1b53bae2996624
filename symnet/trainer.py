"""What a step of training changes: weights, optimisers and position of a run, and how they are kept."""

from typing import Any

import torch
from torch import Tensor

from symnet.config import Settings
from symnet.config_methods import Group, Recipe
from symnet.methods.base import Method
from symnet.recipes import members, optimiser_of, rate, remember, remembered


class Trainer:
    """Weights, optimisers and position of one run. `tensors` and `load` are all of it, but for the global generator."""

    def __init__(self, method: Method, settings: Settings, steps: int, recipe: Recipe = None) -> None:
        """recipe: the method's own; None: SGD with a polynomial decay, as `train` says."""
        self.method, self.steps, self.step = method, steps, 0
        self.parts = settings.train.accumulate  # micro-batches a step and process; more where memory was short
        self.best: tuple[float, dict[str, Tensor]] | None = None
        parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
        self.parameters = list(parameters.values())
        self.on_gpu = self.parameters[0].is_cuda
        t = settings.train
        plain = Group(optimiser="sgd", lr=t.lr, decay="poly", weight_decay=t.weight_decay, momentum=t.momentum, power=t.power)
        self.recipe = recipe or (plain,)
        self.optimisers = [optimiser_of(g, own) for g, own in zip(self.recipe, members(self.recipe, parameters), strict=True)]

    def advance(self) -> None:
        """One step of every optimiser at its decayed rate, with the gradients that were gathered since the last."""
        for group, optimiser in zip(self.recipe, self.optimisers, strict=True):
            optimiser.param_groups[0]["lr"] = rate(group, self.step, self.steps)
            optimiser.step()
        self.forget()
        self.step += 1

    def forget(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def weights(self) -> dict[str, Tensor]:
        """A copy of the method's weights on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.method.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs."""
        found = {f"weights.{n}": v for n, v in self.method.state_dict().items()}
        for i, optimiser in enumerate(self.optimisers):
            found |= {f"optimiser{i}.{n}": v for n, v in remembered(optimiser).items()}
        found |= self.generators()
        if self.best is not None:
            found |= {f"best.{n}": v for n, v in self.best[1].items()}
        return found

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from a checkpoint."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

        self.method.load_state_dict(part("weights."), strict=True)
        for i, optimiser in enumerate(self.optimisers):
            remember(optimiser, part(f"optimiser{i}."))
        self.restore(tensors)
        self.step, self.parts = meta["step"], meta["parts"]
        self.best = None if meta["best"] is None else (meta["best"], part("best."))

    def generators(self) -> dict[str, Tensor]:
        """State of the global generators, which dropout draws from."""
        found = {"generator.cpu": torch.get_rng_state()}
        return found | ({"generator.cuda": torch.cuda.get_rng_state()} if self.on_gpu else {})

    def restore(self, generators: dict[str, Tensor]) -> None:
        """Put the global generators back to what `generators` gave; a state saved without a GPU leaves that of one alone."""
        torch.set_rng_state(generators["generator.cpu"])
        if self.on_gpu and "generator.cuda" in generators:
            torch.cuda.set_rng_state(generators["generator.cuda"])
