"""How a small decoder is best pretrained on a device: precision, compilation, and rows of a batch."""

from __future__ import annotations

import contextlib
from functools import partial

import torch
from transformers import Gemma2ForCausalLM

from benchmarks.timing import Row, clocked, take_turns, wait
from benchmarks.workload import config_of
from gemma_encoder.experiments.pretrain import LENGTH

SIZES = {"cuda": ("30M", (64, 256, 1024)), "cpu": ("tiny", (2,))}
WAYS = {  # name: bfloat16 passes, compiled
    "float32": (False, False),
    "bfloat16 passes": (True, False),
    "bfloat16 passes, compiled": (True, True),
}


def pretraining(device: torch.device) -> list[Row]:
    """Causal updates of random rows, every way in turn for every size of batch."""
    shape, batches = SIZES[device.type]
    table = []
    for rows in batches:
        case, calls = f"pretraining {shape}, {rows} rows of {LENGTH}", {}
        for name, way in WAYS.items():
            call = clocked(partial(update, *decoder(shape, way[1], device), rows, way[0], device))
            try:
                call()
                calls[name] = call
            except Exception as error:  # out of memory, or no compiler here: the others go on
                table.append(Row("gpu pretraining", case, name, note=f"failed: {type(error).__name__}"))
        taken = take_turns(calls, 5)
        table += [Row("gpu pretraining", case, name, took, rows * LENGTH, rows) for name, took in taken.items()]
    return table


def decoder(shape: str, compiled: bool, device: torch.device) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A causal decoder of random float32 weights, and its optimiser."""
    model = Gemma2ForCausalLM._from_config(config_of(shape), attn_implementation="eager", dtype=torch.float32)
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if compiled:
        model.compile()
    return model, optimiser


def update(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, rows: int, half: bool, device: torch.device
) -> None:
    """Forward, backward and AdamW over one batch of random tokens."""
    ids = torch.randint(3, model.config.vocab_size, (rows, LENGTH), device=device)
    wait(device)
    with torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext():
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    wait(device)
