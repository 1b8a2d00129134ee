"""What the demo's models are trained with: work on two processes, AdamW under a one-cycle schedule."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


def on_two_processes(work: Callable[[int], T], count: int) -> list[T]:
    """Call a function of a module with 0 to ``count`` - 1."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.map(work, range(count), chunksize=250)


class Descent:
    """AdamW, which shrinks matrices only, its rate up for a tenth of the steps and down for the others."""

    def __init__(self, parameters: Iterable[nn.Parameter], steps: int, rate: float, decay: float) -> None:
        """Nothing is computed yet."""
        self._parameters = list(parameters)
        matrices = [p for p in self._parameters if p.ndim >= 2]
        others = [p for p in self._parameters if p.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, rate, total_steps=steps, pct_start=0.1)

    def step(self, loss: torch.Tensor) -> None:
        """Go down one step, along gradients of length 1 at most."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
