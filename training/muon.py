"""The loop and the optimiser of all trainings: Muon for convolutions, AdamW for the rest.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces each matrix's
momentum by the nearest orthogonal matrix. A 3D kernel is the matrix `[out, in * 27]`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

# quintic Newton-Schulz coefficients of the reference implementation
_A, _B, _C = 3.4445, -4.7750, 2.0315


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return torch.as_tensor(x.T if tall else x)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum of 0.95, orthogonalised; the RMS of an update is about 0.2 * `lr`."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p.grad))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]).reshape(p.shape[0], -1)
                update = _orthogonal(update)
                scale = 0.2 * math.sqrt(max(update.shape))
                p.add_(update.reshape(p.shape), alpha=-group["lr"] * scale)


class Trainer:
    """Two optimisers, one schedule (warm-up, constant, linear to zero), and averaged weights.

    `average` is the decay of the exponential moving average of the weights. Parameters in `fast`,
    which are not kernels, have `factor` times the learning rate.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        lr: float,
        average: float,
        fast: Iterable[nn.Parameter] = (),
        factor: float = 1.0,
    ) -> None:
        kernels = [
            p for p in model.parameters() if p.ndim > 2 and p.shape[0] > 4 and p[0].numel() > 64
        ]
        fast = list(fast)
        listed = {id(p) for p in (*kernels, *fast)}
        others = [p for p in model.parameters() if id(p) not in listed]
        groups = [{"params": others, "factor": 1.0}, {"params": fast, "factor": factor}]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(kernels, lr),
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr,
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        ]
        self.model, self.steps, self.lr, self.decay = model, steps, lr, average
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.done = 0
        self.started = time.monotonic()

    def step(self, loss: torch.Tensor) -> None:
        """Backpropagate `loss` and update the weights and their average."""
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        warm = min(1.0, (self.done + 1) / 50)
        cool = min(1.0, (self.steps - self.done) / (0.5 * self.steps))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * warm * cool * group.get("factor", 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.done += 1
        decay = min(self.decay, self.done / (self.done + 10))
        for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
            slow.data.lerp_(fast.data, 1 - decay)

    def run(
        self,
        state_file: Path,
        loss: Callable[[], torch.Tensor],
        report: Callable[[], str],
        every: int = 100,
        **extra: Any,
    ) -> None:
        """Train to the last step on the results of `loss`; resume from `state_file` if it exists.

        After `every` steps and the last one, the file gets the state and `extra`, and the name of
        the file, the step and the result of `report` are printed.
        """
        if state_file.exists():
            self.resume(torch.load(state_file, weights_only=True))
        while self.done < self.steps:
            self.step(loss())
            if self.done % every == 0 or self.done == self.steps:
                torch.save({**self.state(), **extra}, state_file)
                name, seconds = state_file.stem.replace("_", " "), time.monotonic() - self.started
                print(f"{name} {self.done}/{self.steps} {report()} {seconds:.0f} s", flush=True)

    def state(self) -> dict[str, Any]:
        """Return the state for `resume`."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "done": self.done,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state`."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, optimiser_state in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(optimiser_state)
        self.done = state["done"]
