"""Muon in the precision of the weights.

`torch.optim.Muon` orthogonalises in bfloat16, which a CPU without such arithmetic does some 20 times slower.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.7750, 2.0315
MOMENTUM = 0.95
STEPS = 5  # of Newton-Schulz


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V' of the singular value decomposition U S V' of `matrix (rows, columns)`, by Newton-Schulz.

    X <- a X + (b X X' + c (X X')^2) X, from X = matrix / |matrix|, five times: all singular values come near 1.
    Source: Jordan et al., 2024, kellerjordan.github.io/posts/muon.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for matrices, scaled to the step of AdamW (Liu et al., 2025, arXiv 2502.16982).

    B <- 0.95 B + 0.05 G; W <- (1 - lr decay) W - lr 0.2 sqrt(max(rows, columns)) orthogonal(0.05 G + 0.95 B).
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - MOMENTUM)
                update = orthogonal(weight.grad.lerp(average, MOMENTUM))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update, alpha=group["lr"] * 0.2 * max(weight.shape) ** 0.5)
