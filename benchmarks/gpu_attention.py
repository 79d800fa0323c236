"""Attention alone, at 512 tokens and the sizes of a layer of Gemma 2 2B: what is exact, and what it costs.

The plain formula and the two passes give soft-cap and dropout; a fused kernel without either is the bound. First of all
the two passes are held against the formula in float32 with the same pairs kept, and so is the formula in bfloat16,
which says how much of a difference is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import Row, clocked, take_turns, wait
from benchmarks.two_pass import kept, two_pass
from gemma_encoder.attention import formula
from gemma_encoder.masks import bidirectional

SIZES = {"cuda": (16, 8, 4, 512, 256), "cpu": (2, 4, 2, 64, 32)}  # rows, heads, heads of keys, tokens, head width
SOFTCAP, RATE = 50.0, 0.1
WIDE = 10.0  # standard deviation of the scores of the proof: what a soft-cap bends


def attention(device: torch.device) -> Iterator[list[Row]]:
    """The proof; then forward and backward of every way, in turns, and the peak of memory of each."""
    rows, heads, kv_heads, width, dim = SIZES[device.type]
    torch.manual_seed(0)
    states = [
        torch.randn(rows, count, width, dim, device=device, dtype=torch.bfloat16, requires_grad=True)
        for count in (heads, kv_heads, kv_heads)
    ]
    case, calls = f"attention of {rows} rows of {width}", {}
    yield from proof(f"{case}: difference", states, dim**-0.5)
    for name, way in ways(states, dim**-0.5).items():
        call = clocked(partial(once, way, states, device))
        try:
            yield [Row("gpu attention", f"{case}: memory", name, value=gib, unit="GiB") for gib in peak(call)]
            calls[name] = call
        except Exception as error:  # a kernel that this device lacks: the others go on
            yield [Row("gpu attention", case, name, note=why(error))]
    taken = take_turns(calls, 5)
    yield [Row("gpu attention", case, name, took, rows * width, rows) for name, took in taken.items()]


def why(error: Exception) -> str:
    """What failed, in one line."""
    return f"failed: {type(error).__name__}: {' '.join(str(error).splitlines()[:2])[:160]}"


def proof(case: str, states: Sequence[Tensor], scaling: float) -> Iterator[list[Row]]:
    """How far the formula in bfloat16 and the two passes are from the formula in float32, to the gradient."""
    query, key, _ = states
    scaling *= WIDE
    seed = torch.ones((), dtype=torch.int64, device=query.device)
    at = torch.meshgrid(
        *(torch.arange(size, device=query.device) for size in (*query.shape[:3], key.shape[2])), indexing="ij"
    )
    pairs, direction = kept(RATE, seed, *query.shape[1:3])(*at), torch.randn_like(query)

    def plain(*states: Tensor) -> Tensor:
        return spread(*states, scaling, lambda weights: weights * pairs / (1 - RATE))

    fused = torch.compile(two_pass, dynamic=False)
    exact = found(plain, [state.detach().float().requires_grad_() for state in states], direction)
    contenders = {
        "the formula": plain,
        "two passes, compiled": lambda *states: fused(*states, bidirectional, scaling, SOFTCAP, RATE, seed),
    }
    for name, way in contenders.items():
        try:
            gaps = [
                ((mine.float() - right).abs().max() / right.abs().max()).item()
                for mine, right in zip(found(way, states, direction), exact, strict=True)
            ]
        except Exception as error:  # a kernel that this device lacks
            yield [Row("gpu attention", case, name, note=why(error))]
        else:
            said = ", ".join(f"{100 * gap:.2f}" for gap in gaps)
            note, unit = f"output, gradients of query, key, value: {said}", "% of the largest value"
            yield [Row("gpu attention", case, name, value=100 * max(gaps), unit=unit, note=note)]


def found(way: Callable[..., Tensor], states: Sequence[Tensor], direction: Tensor) -> list[Tensor]:
    """Output, and the gradients of the states."""
    output = way(*states)
    return [output.detach(), *torch.autograd.grad(output, states, direction.to(output.dtype))]


def spread(query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: Callable[[Tensor], Tensor]) -> Tensor:
    """The formula, where every token reads every token."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    bias = torch.zeros(len(query), 1, *query.shape[2:3] * 2, device=query.device, dtype=query.dtype)
    return formula(query, key, value, bias, scaling, SOFTCAP, dropout)[0]


def peak(call: Callable[[], float]) -> list[float]:
    """GiB that `call` took at most; none without a GPU."""
    call()  # compiles
    if not torch.cuda.is_available():
        return []
    torch.cuda.reset_peak_memory_stats()
    call()
    return [torch.cuda.max_memory_allocated() / 2**30]


def once(way: Callable[..., Tensor], states: list[Tensor], device: torch.device) -> None:
    """Forward and backward."""
    wait(device)
    output = way(*states)
    torch.autograd.grad(output, states, torch.ones_like(output))
    wait(device)


def ways(states: list[Tensor], scaling: float) -> dict[str, Callable[..., Tensor]]:
    """The ways of computing it, the plain formula first."""
    plain = partial(spread, scaling=scaling, dropout=nn.Dropout(RATE))
    seed = torch.zeros((), dtype=torch.int64, device=states[0].device)
    fused = torch.compile(two_pass, dynamic=False)
    return {
        "the formula": plain,
        "the formula, compiled": torch.compile(plain, dynamic=False),
        "two passes, compiled": lambda *states: fused(*states, bidirectional, scaling, SOFTCAP, RATE, seed),
        "fused, no soft-cap, no dropout": lambda *states: F.scaled_dot_product_attention(
            *states, scale=scaling, enable_gqa=True
        ),
    }
