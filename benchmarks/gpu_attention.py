"""Attention alone, at 512 tokens and the sizes of a layer of Gemma 2 2B: what is exact, and what it costs.

The plain formula and the two passes give soft-cap and dropout; a fused kernel without either is the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import Row, clocked, take_turns, wait
from gemma_encoder.attention import formula
from gemma_encoder.masks import bidirectional
from gemma_encoder.two_pass import two_pass

SIZES = {"cuda": (16, 8, 4, 512, 256), "cpu": (2, 4, 2, 64, 32)}  # rows, heads, heads of keys, tokens, head width
SOFTCAP, RATE = 50.0, 0.1


def attention(device: torch.device) -> list[Row]:
    """Forward and backward of every way, in turns, and the peak of memory of each."""
    rows, heads, kv_heads, width, dim = SIZES[device.type]
    states = [
        torch.randn(rows, count, width, dim, device=device, dtype=torch.bfloat16, requires_grad=True)
        for count in (heads, kv_heads, kv_heads)
    ]
    case, table, calls = f"attention of {rows} rows of {width}", [], {}
    for name, way in ways(states, dim**-0.5).items():
        call = clocked(partial(once, way, states, device))
        try:
            table += [
                Row("gpu attention", f"{case}: memory", name, value=gib, unit="GiB at most") for gib in peak(call)
            ]
            calls[name] = call
        except Exception as error:  # a kernel that this device lacks: the others go on
            table.append(Row("gpu attention", case, name, note=f"failed: {type(error).__name__}"))
    taken = take_turns(calls, 5)
    tokens = rows * width
    return [Row("gpu attention", case, name, took, tokens, rows) for name, took in taken.items()] + table


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
    way(*states).sum().backward()
    wait(device)


def ways(states: list[Tensor], scaling: float) -> dict[str, Callable[..., Tensor]]:
    """The ways of computing it, the plain formula first."""
    query, key, _ = states
    repeats, dropout = query.shape[1] // key.shape[1], nn.Dropout(RATE)
    bias = torch.zeros(len(query), 1, *query.shape[2:3] * 2, device=query.device, dtype=query.dtype)
    seed, fused = torch.zeros((), dtype=torch.int64, device=query.device), torch.compile(two_pass, dynamic=False)

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        return formula(query, key, value, bias, scaling, SOFTCAP, dropout)[0]

    return {
        "the formula": plain,
        "the formula, compiled": torch.compile(plain, dynamic=False),
        "two passes, compiled": lambda *states: fused(*states, bidirectional, scaling, SOFTCAP, RATE, seed),
        "fused, no soft-cap, no dropout": lambda *states: F.scaled_dot_product_attention(
            *states, scale=scaling, enable_gqa=True
        ),
    }
