"""How a small decoder is best pretrained on a device: precision, compilation, and rows of a batch."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from transformers import Gemma2ForCausalLM

from benchmarks.gpu_attention import why
from benchmarks.timing import Row, clocked, take_turns, wait
from benchmarks.workload import config_of

LENGTH = 128  # that of experiments.pretrain, which imports packages that a bare GPU machine lacks
SIZES = {"cuda": ("30M", (16, 256)), "cpu": ("tiny", (2,))}  # 16 is what the kit's own pretraining has


@dataclass(frozen=True)
class Way:
    """One way of computing an update."""

    products: str = "highest"  # precision of float32 matrix products; "high" is TF32
    half: bool = False  # bfloat16 passes
    mode: str | None = None  # of torch.compile


WAYS = {
    "float32": Way(),
    "float32, TF32 products": Way("high"),
    "bfloat16 passes": Way(half=True),
    "bfloat16 passes, compiled": Way(half=True, mode="default"),
    "bfloat16 passes, compiled, CUDA graphs": Way(half=True, mode="reduce-overhead"),
}


def pretraining(device: torch.device) -> Iterator[list[Row]]:
    """Causal updates of random rows, every way in turn for every size of batch."""
    shape, batches = SIZES[device.type]
    for rows in batches:
        case, calls = f"pretraining {shape}, {rows} rows of {LENGTH}", {}
        for name, way in WAYS.items():
            call = clocked(partial(update, *decoder(shape, way, device), rows, way, device))
            try:
                call()
                calls[name] = call
            except Exception as error:  # out of memory, or no compiler here: the others go on
                yield [Row("gpu pretraining", case, name, note=why(error))]
        taken = take_turns(calls, 5)
        yield [Row("gpu pretraining", case, name, took, rows * LENGTH, rows) for name, took in taken.items()]
        del calls, call
        torch.compiler.reset()
        gc.collect()


def decoder(shape: str, way: Way, device: torch.device) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A causal decoder of random float32 weights, and its optimiser."""
    model = Gemma2ForCausalLM._from_config(config_of(shape), attn_implementation="eager", dtype=torch.float32)
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if way.mode:
        model.compile(mode=way.mode, dynamic=False)
    return model, optimiser


def update(model: torch.nn.Module, optimiser: torch.optim.Optimizer, rows: int, way: Way, device: torch.device) -> None:
    """Forward, backward and AdamW over one batch of random tokens."""
    ids = torch.randint(3, model.config.vocab_size, (rows, LENGTH), device=device)
    torch.set_float32_matmul_precision(way.products)
    wait(device)
    with torch.autocast(device.type, torch.bfloat16) if way.half else contextlib.nullcontext():
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    wait(device)
