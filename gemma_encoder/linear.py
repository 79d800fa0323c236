"""The decoder's own linear layers, multiplied by oneDNN where MKL leaves half of the processor unused.

torch gives products of float32 matrices to MKL, which takes the AVX2 path on a processor that is not Intel's. oneDNN,
which torch brings along too, takes AVX-512 there: same products, same precision, about half of the time on two cores of
an AMD EPYC of family 26 (benchmarks/results). Elsewhere, and in any other precision, torch's own path is taken.

oneDNN writes a kernel for each shape it meets, and remembers some, while every packed batch has another number of
tokens. So batches are filled up with `spare` tokens, a row that nobody reads, to few different numbers.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST = 1 << 22  # multiplications of a product that takes longer than what oneDNN costs by itself
UNIT = 8  # least number that tokens are filled up to a multiple of
STEPS = 32  # numbers of tokens between one power of two and the next


@cache
def _mkl_lags() -> bool:
    """Whether MKL takes AVX2 on this processor, and oneDNN AVX-512."""
    cpu = Path("/proc/cpuinfo")
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and cpu.is_file() and "AuthenticAMD" in cpu.read_text()


def eager_in_float32_on_a_cpu(states: Tensor) -> bool:
    """Whether operations on `states` run one by one as they are written, in float32, on a CPU."""
    return (
        not torch.compiler.is_compiling()  # first: a compiler cannot trace what may follow
        and states.dtype == torch.float32
        and states.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def onednn_pays(multiplications: int, weight: Tensor) -> bool:
    """Whether so large a product with a weight like this is faster in oneDNN; torch.backends.mkldnn switches it off."""
    return (
        eager_in_float32_on_a_cpu(weight)
        and multiplications >= LEAST
        and _mkl_lags()
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def spare(tokens: int, longest: int) -> int:
    """How many tokens a batch misses to a number that is met again, at most one in 32 of a long one.

    None if they were a row longer than the longest of the batch, which attention would have to be as wide as.
    """
    missing = -tokens % max(UNIT, (1 << tokens.bit_length()) // (2 * STEPS))
    return missing if missing <= longest else 0


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """`left right^T + bias` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class Product(torch.autograd.Function):
    """`y = x W^T + b` and its gradients `dx = dy W`, `dW = dy^T x`, `db = sum(dy)`; x of shape `(..., dim)`."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight)
        return product(states, weight, bias)

    @staticmethod
    @once_differentiable  # a second gradient would take what was saved for constants
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        of_states = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        gradient, states = gradient.flatten(0, -2), states.flatten(0, -2)
        of_weight = _of_weight(gradient, states) if ctx.needs_input_grad[1] else None
        return of_states, of_weight, gradient.sum(dim=0) if ctx.needs_input_grad[2] else None


def _of_weight(gradient: Tensor, states: Tensor) -> Tensor:
    """`dy^T x`, of `(tokens, out)` and `(tokens, in)`: the narrower of the two is turned around."""
    if gradient.shape[1] <= states.shape[1]:
        return product(gradient.t().contiguous(), states.t())
    return product(states.t().contiguous(), gradient.t()).t().contiguous()


class Linear(nn.Linear):
    """A linear layer whose products are computed by the faster of torch's two libraries."""

    def forward(self, states: Tensor) -> Tensor:
        if (
            states.dtype == torch.float32
            and states.dim() > 1
            and onednn_pays(states.numel() * self.out_features, self.weight)
        ):
            return Product.apply(states, self.weight, self.bias)
        return super().forward(states)
