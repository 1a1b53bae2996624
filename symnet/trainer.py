"""What a step of training changes: weights, optimiser and position of a run, and how they are kept."""

from typing import Any

import torch
from torch import Tensor

from symnet.config import Settings
from symnet.methods.base import Method
from symnet.schedule import poly_rate


class Trainer:
    """Weights, optimiser and position of one run. `tensors` and `load` are all of it, but for the global generator."""

    def __init__(self, method: Method, settings: Settings, steps: int) -> None:
        self.method, self.settings, self.steps, self.step = method, settings.train, steps, 0
        self.parts = settings.train.accumulate  # micro-batches a step and process; more where memory was short
        self.best: tuple[float, dict[str, Tensor]] | None = None
        t = settings.train
        self.parameters = [p for p in method.parameters() if p.requires_grad]
        fused = self.parameters[0].is_cuda or None  # one kernel for all parameters, where there is one
        self.optimiser = torch.optim.SGD(self.parameters, lr=t.lr, momentum=t.momentum, weight_decay=t.weight_decay, fused=fused)

    def advance(self) -> None:
        """One step of SGD at the decayed rate, with the gradients that were gathered since the last."""
        for group in self.optimiser.param_groups:
            group["lr"] = poly_rate(self.settings.lr, self.step, self.steps, self.settings.power)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1

    def weights(self) -> dict[str, Tensor]:
        """A copy of the method's weights on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.method.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs."""
        found = {f"weights.{n}": v for n, v in self.method.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[f"momentum.{i}"] = momentum
        found |= self.generators()
        if self.best is not None:
            found |= {f"best.{n}": v for n, v in self.best[1].items()}
        return found

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from a checkpoint."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

        self.method.load_state_dict(part("weights."), strict=True)
        for i, parameter in enumerate(self.parameters):
            if f"momentum.{i}" in tensors:
                self.optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(tensors[f"momentum.{i}"])
        self.restore(tensors)
        self.step, self.parts = meta["step"], meta["parts"]
        self.best = None if meta["best"] is None else (meta["best"], part("best."))

    def generators(self) -> dict[str, Tensor]:
        """State of the global generators, which dropout draws from."""
        found = {"generator.cpu": torch.get_rng_state()}
        return found | ({"generator.cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def restore(self, generators: dict[str, Tensor]) -> None:
        """Put the global generators back to what `generators` gave; a state saved without a GPU leaves that of one alone."""
        torch.set_rng_state(generators["generator.cpu"])
        if torch.cuda.is_available() and "generator.cuda" in generators:
            torch.cuda.set_rng_state(generators["generator.cuda"])
