"""What a profile costs, said before anything is spent: runs, tokens, FLOPs, memory, hours, downloads, licences.

Works without network and without the model's weights. Estimates, with their assumptions:

tokens: counted where model and data are on this machine; else rows and characters of the hub's tasks (`sizes.HUB`).
    A run that fills its batches up to one length trains on the padding too.
FLOPs: 6 a weight and token for training, 2 for evaluation, 8 with gradient checkpointing, and those of the attention
    maps (Kaplan et al., 2020, arXiv 2001.08361, section 2.1). With LoRA 2 less: no gradients of frozen weights.
memory: weights, gradients, AdamW's two moments, and the activations that the backward pass needs.
hours on this machine: a few updates, timed (`pace`); on named GPUs: FLOPs at the published dense peak of the precision,
    of which `UTILISATION` is reached, an assumption. Measured once, on an H200 (benchmarks/results/gpu): 0.31 of it
    for Gemma 2 2B's shape with gradient checkpointing, its weights in bfloat16 too, at 32 rows of BoolQ's lengths.
    What compiled layers save is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch

from gemma_encoder.errors import InputError
from gemma_encoder.experiments.pace import pace
from gemma_encoder.experiments.shapes import Shape, shape_of
from gemma_encoder.experiments.sizes import Work, work_of
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.loading import checkpoint_path, hub_name

UTILISATION = 0.3
PEAKS = {  # FLOPs a second from the makers' data sheets, dense, and memory in GB
    "L4": {"bfloat16": 121e12, "float32": 30e12, "memory": 24},
    "RTX 4090": {"bfloat16": 165e12, "float32": 83e12, "memory": 24},
    "A100 80GB": {"bfloat16": 312e12, "float32": 19.5e12, "memory": 80},
    "H100 SXM": {"bfloat16": 989e12, "float32": 67e12, "memory": 80},
    "H200 SXM": {"bfloat16": 989e12, "float32": 67e12, "memory": 141},
}
MASKED = [{"attention": mask, "pooling": name} for mask in ("causal", "bidirectional") for name in ("mean", "last")]
ABLATIONS = {  # what the notebooks of these numbers vary: fields of RunSpec
    "02": [{"pooling": name} for name in ("mean", "last", "first", "query-probe", "kv-probe")],
    "04": [{"padding": side} for side in ("none", "right", "left")],
    "05": MASKED,
    "07": [
        *MASKED,
        *[{"pooling": name} for name in ("query-probe", "kv-probe")],
        *[{"attention_dropout": rate, "ffn_dropout": rate} for rate in (0.0, 0.05, 0.15, 0.2)],
        *[{"padding": side} for side in ("right", "left")],
    ],
}
READ_ALIKE = {  # settings that change neither the rows of a run nor their tokens
    "seed": 0,
    "attention": "bidirectional",
    "pooling": "mean",
    "attention_dropout": 0.0,
    "ffn_dropout": 0.0,
    "padding": "none",
}
TIMED = 100e6  # weights: an update of a larger model takes a CPU longer than a person waits for a plan


@dataclass(frozen=True)
class Estimate:
    """One fine-tuning: tokens trained on and evaluated, FLOPs, and bytes at the peak on the accelerator."""

    tokens: int
    evaluated: int
    flops: float
    memory: int


def activation_bytes(shape: Shape, spec: RunSpec, work: Work) -> float:
    """What one micro-batch keeps for its backward pass.

    A block of Gemma 2 keeps twelve vectors of the width (norms, residuals, dropout), four of the feed-forward width,
    queries, keys and values of every head, and four attention maps; other families keep less. With checkpointing it
    keeps its input, and one block at a time is whole. The peak is that of the batch with the heaviest row, among rows
    of the mean; where lengths could not be counted, the longest text is taken to be twice the mean.
    """
    size = 4 if spec.precision == "float32" else 2
    token = 12 * shape.width + 4 * shape.ffn + 3 * shape.head_dim * shape.heads
    counted = len(work.lengths) > 1 or spec.padding != "none"
    longest = max(work.lengths) if counted else min(2 * work.length, spec.max_length)
    others, heaviest = ((spec.micro_batch or spec.batch_size) - 1) * work.texts, work.heaviest or longest
    tokens, slots = others * work.length + heaviest, others * longest + heaviest  # attention opens all to the longest
    block = size * (tokens * token + 4 * shape.heads * slots * longest)
    if spec.gradient_checkpointing:
        return block + size * shape.layers * tokens * shape.width
    return shape.layers * block


def estimate(spec: RunSpec, shape: Shape, work: Work) -> Estimate:
    """What one fine-tuning of a model of this shape needs to do this work as `spec` says."""
    tokens, evaluated = (round(spec.epochs * n) for n in (work.rows * work.texts * work.length, work.evaluated))
    passed_once = 2 * shape.multiplications(work.length)  # a token
    trained_on = shape.training([work.length], frozen=bool(spec.lora_rank)) / work.length
    flops = (trained_on + passed_once * spec.gradient_checkpointing) * tokens + passed_once * evaluated
    trained = shape.lora(spec.lora_rank) if spec.lora_rank else shape.parameters
    rounded = 2 * shape.linear if spec.precision == "bfloat16" else 0  # autocast's copies of the weights
    kept, gradients = activation_bytes(shape, spec, work), 4 * trained
    # gradients take the place of activations in the backward pass, unless those of an earlier micro-batch are there
    passing = kept + gradients if 0 < spec.micro_batch < spec.batch_size else max(kept, gradients)
    return Estimate(tokens, evaluated, flops, int(4 * shape.parameters + 8 * trained + rounded + passing))


def filled_up(work: Work, spec: RunSpec) -> Work:
    """`work` as the run of `spec` trains on it: where it pads, every text is as long as the longest of its batch.

    Validation rows are batched by length and stay as they are. Where lengths could not be counted, the longest of a
    batch is taken to be twice the mean.
    """
    if spec.padding == "none":
        return work
    if len(work.lengths) == 1:
        return replace(work, lengths=[min(2 * work.length, spec.max_length)])
    count = max(1, round((spec.micro_batch or spec.batch_size) * work.texts))
    batches = [work.lengths[at : at + count] for at in range(0, len(work.lengths), count)]
    return replace(work, lengths=[max(batch) for batch in batches for _ in batch])


def as_text(parts: Mapping[str, Sequence[RunSpec]]) -> str:
    """The plan of these runs, which share a model, for a person to read; every part has a line.

    All runs are counted, so one that two parts share belongs in one of them only.
    """
    parts = {name: [replace(spec, seed=0) for spec in part] for name, part in parts.items() if part}  # seeds cost alike
    alike = list(chain.from_iterable(parts.values()))
    if not alike:
        raise InputError("no runs to plan; valid: notebooks with tasks and seeds")
    model, precision = alike[0].model, alike[0].precision
    shape, works = shape_of(model), _works(alike)
    costs = {spec: estimate(spec, shape, work) for spec, work in works.items()}
    estimates = [costs[spec] for spec in alike]
    flops, peak = sum(each.flops for each in estimates), max(each.memory for each in estimates)
    lines = [
        f"runs       {len(alike)}: {', '.join(dict.fromkeys(spec.task for spec in alike))}",
        *[_share(name, part, costs, flops) for name, part in parts.items()],
        f"model      {model}, {shape.parameters / 1e6:,.0f}M weights",
        f"tokens     {sum(each.tokens for each in estimates) / 1e6:,.1f}M trained on, "
        f"{sum(each.evaluated for each in estimates) / 1e6:,.1f}M evaluated",
        f"FLOPs      {flops:.2e}",
        f"memory     {peak / 1e9:,.1f} GB at the peak of a run",
        f"hours      {_here(alike, works, shape, peak)}",
        *[
            f"hours      {flops / gpu[precision] / UTILISATION / 3600:,.2f} on one {name}"
            + _too_small(peak, gpu["memory"])
            for name, gpu in PEAKS.items()
        ],
        f"           at {UTILISATION:.0%} of the published {precision} peak; models below 1,000M weights reach less",
        f"download   {_download(model, shape, any(spec.data == 'hub' for spec in alike))}",
        f"licence    {_licence(model, shape)}",
    ]
    return "\n".join(lines)


def _works(specs: Sequence[RunSpec]) -> dict[RunSpec, Work]:
    """What each run trains on; what they read alike is read once."""
    keys = {spec: replace(spec, **READ_ALIKE) for spec in specs}
    read = {key: work_of(key) for key in dict.fromkeys(keys.values())}
    return {spec: filled_up(read[key], spec) for spec, key in keys.items()}


def _share(name: str, part: Sequence[RunSpec], costs: Mapping[RunSpec, Estimate], flops: float) -> str:
    """The line of one part of a plan: its runs, and how much of the work they are."""
    return f"           {len(part)} {name}: {sum(costs[spec].flops for spec in part) / flops:.0%} of the FLOPs"


def _here(specs: Sequence[RunSpec], works: Mapping[RunSpec, Work], shape: Shape, peak: int) -> str:
    """The hours of all runs, one after the other, on this machine; the task with the most tokens is timed, unpadded."""
    if torch.cuda.is_available():
        room = torch.cuda.mem_get_info()[0]
        if peak > room:
            return f"unknown on this machine: its GPU has {room / 1e9:,.0f} GB free"
    elif shape.parameters > TIMED:
        return f"unknown on this machine: on a CPU, models of up to {TIMED / 1e6:.0f}M weights are timed"

    def tokens(spec: RunSpec) -> tuple[bool, float]:
        return spec.padding == "none", works[spec].rows * works[spec].texts * works[spec].length

    largest = max(specs, key=tokens)
    found = pace(largest, works[largest])
    seconds = {spec: found.seconds(spec, work, shape) for spec, work in works.items()}
    return f"{sum(seconds[spec] for spec in specs) / 3600:,.2f} on {found.where}, timed now"


def _too_small(peak: int, room: float) -> str:
    return f": does not fit its {room:g} GB" if peak > room * 1e9 else ""


def _download(model: str, shape: Shape, from_hub: bool) -> str:
    if Path(checkpoint_path(model)).is_dir():
        return "the tasks from the hub" if from_hub else "none"
    size = f"about {2 * shape.parameters / 1e9:,.1f} GB of bfloat16 weights"  # twice that where a hub file is float32
    return size + (", and the tasks from the hub" if from_hub else "")


def _licence(model: str, shape: Shape) -> str:
    if not shape.licence:
        return "none"
    return f"{shape.licence}: accept it on the hub page of {hub_name(model)[0]}, then `hf auth login`"
