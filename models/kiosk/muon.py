"""Muon: momentum whose matrix is made orthogonal by a few Newton-Schulz steps before it is applied."""

import time
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor


@cache
def fast_type() -> torch.dtype:
    """bfloat16 where this processor multiplies matrices faster with it (measured: some only emulate it)."""

    def seconds(kind: torch.dtype) -> float:
        a = torch.randn(1024, 384, dtype=kind)
        for turn in range(6):
            if turn == 1:  # the first one warms up
                start = time.perf_counter()
            a @ a.T
        return time.perf_counter() - start

    return torch.bfloat16 if seconds(torch.bfloat16) < seconds(torch.float32) else torch.float32


def orthogonal(update: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with equal singular values, roughly; batched over the first dimension."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.to(fast_type())
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(update.dtype)


def shared_orthogonal(updates: Tensor) -> Tensor:
    """Each worker makes its share of the matrices orthogonal."""
    if not dist.is_initialized():
        return orthogonal(updates)
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    done = torch.zeros_like(updates)
    if len(updates[mine]):
        done[mine] = orthogonal(updates[mine])
    dist.all_reduce(done)
    return done


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for (rows, columns), parameters in shapes.items():
                updates = []
                for p in parameters:
                    velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                    velocity.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(velocity, group["momentum"]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for p, update in zip(parameters, shared_orthogonal(torch.stack(updates))):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-scale)
