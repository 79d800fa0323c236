"""The decoder's own linear layers, multiplied by oneDNN where it is faster than MKL.

torch gives products of float32 matrices to MKL, which takes the AVX2 path on a processor that is not Intel's. oneDNN,
which torch brings along too, takes AVX-512 there: same products, same precision. On two cores of an AMD EPYC of family
26 (Zen 5) they take half of the time; on one of family 25 (Zen 4), which computes AVX-512 in two halves, nine tenths,
and only if they are large. Elsewhere, and in any other precision, torch's own path is taken.

oneDNN generates a kernel for every new shape and caches only some of them, but hardly two packed batches have the same
number of tokens. So a batch is padded with `spare` tokens, an extra row that nobody reads, to one of a few sizes.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HALVES = 25  # the family of AMD processors that compute AVX-512 in two halves
LEAST = {HALVES: 1 << 26, 26: 1 << 22}  # by family, multiplications of a product from which oneDNN is faster
UNIT = 8  # least number that tokens are filled up to a multiple of
STEPS = 32  # numbers of tokens between one power of two and the next


@cache
def _family() -> int | None:
    """That of an AMD processor with AVX-512, the last of LEAST for one that came later; None for any other."""
    cpu = Path("/proc/cpuinfo")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not cpu.is_file():
        return None
    found = re.search(r"AuthenticAMD\ncpu family\s*: (\d+)", cpu.read_text())
    return min(int(found[1]), max(LEAST)) if found else None


def eager_in_float32_on_a_cpu(states: Tensor) -> bool:
    """Whether operations on `states` run one by one as they are written, in float32, on a CPU."""
    return (
        not torch.compiler.is_compiling()  # first: a compiler cannot trace what may follow
        and states.dtype == torch.float32
        and states.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def onednn_pays(multiplications: int, matrix: Tensor) -> bool:
    """Whether so large a product with a matrix like this is faster in oneDNN; torch.backends.mkldnn switches it off."""
    return (
        eager_in_float32_on_a_cpu(matrix)
        and multiplications >= LEAST.get(_family(), math.inf)
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def spare(tokens: int, longest: int) -> int:
    """How many tokens to add so that the total is a size that comes again; for a long batch at most 1 in 32.

    0 if the extra row would be longer than the longest of the batch, as attention would then have to be that wide.
    """
    missing = -tokens % max(UNIT, (1 << tokens.bit_length()) // (2 * STEPS))
    return missing if missing <= longest else 0


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """`left right^T + bias` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


def multiplied(states: Tensor, weight: Tensor) -> Tensor:
    """`x W^T`, of `(tokens, in)` and `(out, in)`."""
    if onednn_pays(states.numel() * len(weight), weight):
        return product(states, weight)
    return states @ weight.t()


def grad_states(gradient: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """`dx = dy W + onto`, of `(tokens, out)` and `(out, in)`; what it is added onto is used up."""
    if not onednn_pays(gradient.numel() * weight.shape[1], weight):
        return gradient @ weight if onto is None else onto.addmm_(gradient, weight)
    if onto is None:
        return product(gradient, weight.t())
    return torch.ops.mkldnn._linear_pointwise.binary(gradient, onto, weight.t(), None, "add")


def grad_weight(gradient: Tensor, states: Tensor) -> Tensor:
    """`dW = dy^T x`, of `(tokens, out)` and `(tokens, in)`: the narrower of the two is turned around for oneDNN."""
    leaving, entering = gradient.shape[1], states.shape[1]
    # turning around what is not narrow, or the result as well, takes longer than what oneDNN saves in halves
    if not onednn_pays(gradient.numel() * entering, states) or (_family() == HALVES and leaving >= entering):
        return gradient.t() @ states
    if leaving <= entering:
        return product(gradient.t().contiguous(), states.t())
    return product(states.t().contiguous(), gradient.t()).t().contiguous()


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
        shape, gradient, states = states.shape, gradient.flatten(0, -2), states.flatten(0, -2)
        return (
            grad_states(gradient, weight).view(shape) if ctx.needs_input_grad[0] else None,
            grad_weight(gradient, states) if ctx.needs_input_grad[1] else None,
            gradient.sum(dim=0) if ctx.needs_input_grad[2] else None,
        )


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
