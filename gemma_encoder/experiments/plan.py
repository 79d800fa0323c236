"""What a profile costs, said before anything is spent: runs, tokens, FLOPs, memory, hours, downloads, licences.

Works without network and without loading a model. Estimates, with their assumptions:

tokens: counted where model and data are on this machine; else rows and characters of GLUE, 4.2 characters a token.
FLOPs: 6 a weight and token for training, 2 for evaluation, 8 with gradient checkpointing, and those of the attention
    maps (Kaplan et al., 2020, arXiv 2001.08361, section 2.1). With LoRA 2 less: no gradients of frozen weights.
memory: weights, gradients, AdamW's two moments, and the activations that the backward pass needs.
hours: FLOPs at the published dense peak of the precision, of which `UTILISATION` is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.experiments.run import split
from gemma_encoder.experiments.shapes import Shape, shape_of
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.loading import checkpoint_path, load_tokenizer
from gemma_encoder.tasks import encode, get_task

UTILISATION = 0.3
PEAKS = {  # FLOPs a second from the makers' data sheets, dense, and memory in GB
    "L4": {"bfloat16": 121e12, "float32": 30e12, "memory": 24},
    "RTX 4090": {"bfloat16": 165e12, "float32": 83e12, "memory": 24},
    "A100 80GB": {"bfloat16": 312e12, "float32": 19.5e12, "memory": 80},
    "H100 SXM": {"bfloat16": 989e12, "float32": 67e12, "memory": 80},
}
CHARACTERS = 4.2  # a token, of English
GLUE = {  # training rows, validation rows, characters a training row; of QQP and MNLI the characters are assumed
    "cola": (8551, 1043, 41),
    "sst2": (67349, 872, 54),
    "mrpc": (3668, 408, 237),
    "stsb": (5749, 1500, 115),
    "qqp": (363846, 40430, 120),
    "mnli": (392702, 9815, 160),
    "qnli": (104743, 5463, 224),
    "rte": (2490, 277, 320),
    "wnli": (635, 71, 149),
}


@dataclass(frozen=True)
class Estimate:
    """One fine-tuning: tokens trained on and evaluated, FLOPs, and bytes at the peak on the accelerator."""

    tokens: int
    evaluated: int
    flops: float
    memory: int


def rows_and_tokens(spec: RunSpec) -> tuple[int, int, float]:
    """Training rows, validation rows, and mean tokens of a training row; counted where that needs no network."""
    if spec.data != "hub" and Path(checkpoint_path(spec.model)).is_dir():
        parts, tokenizer = split(spec), load_tokenizer(spec.model)
        rows, _ = encode(parts["train"], get_task(spec.task), tokenizer, spec.max_length, spec.truncate)
        lengths = [len(row) for row in rows["input_ids"]]
        return len(parts["train"]), len(parts["validation"]), sum(lengths) / len(lengths)
    train, validation, characters = GLUE[check_choice("task with a known size", spec.task, GLUE)]
    names = sum(2 + len(column) / CHARACTERS for column in get_task(spec.task).text_columns)  # `column: text`
    rows = min(train, spec.train_examples or train)
    return rows, validation, min(spec.max_length, characters / CHARACTERS + names)


def activation_bytes(shape: Shape, spec: RunSpec, length: float) -> float:
    """What one micro-batch keeps for its backward pass, in rows of `length` tokens.

    A block keeps about 16 vectors of the width (four norms, residuals, dropout), four of the feed-forward width, its
    queries, keys and values twice, and five attention maps. With checkpointing it keeps its input, and one block at a
    time is whole.
    """
    rows = min(spec.micro_batch or spec.batch_size, spec.batch_size)
    size = 4 if spec.precision == "float32" else 2
    token = 16 * shape.width + 4 * shape.ffn + 4 * shape.head_dim * (shape.heads + shape.kv_heads)
    longest = 2 * length  # attention opens the batch to its longest row
    block = size * rows * (length * token + 5 * shape.heads * longest**2)
    if spec.gradient_checkpointing:
        return block + size * shape.layers * rows * length * shape.width
    return shape.layers * block


def multiplications(shape: Shape, length: float) -> float:
    """Multiplications of one forward pass for one token: the linear layers, the scores and the weighted sums."""
    return shape.linear + 2 * shape.layers * shape.heads * shape.head_dim * length


def estimate(spec: RunSpec, shape: Shape | None = None) -> Estimate:
    """What one fine-tuning of `spec` needs; `shape` where the model is not to be looked up."""
    shape = shape or shape_of(spec.model)
    rows, validation, length = rows_and_tokens(spec)
    tokens, evaluated = round(spec.epochs * rows * length), round(spec.epochs * validation * length)
    passes = 6 + 2 * spec.gradient_checkpointing - 2 * bool(spec.lora_rank)
    flops = multiplications(shape, length) * (passes * tokens + 2 * evaluated)
    trained = shape.lora(spec.lora_rank) if spec.lora_rank else shape.parameters
    rounded = 2 * shape.linear if spec.precision == "bfloat16" else 0  # autocast's copies of the weights
    memory = 4 * shape.parameters + 12 * trained + rounded + activation_bytes(shape, spec, length)
    return Estimate(tokens, evaluated, flops, int(memory))


def as_text(specs: Sequence[RunSpec]) -> str:
    """The plan of these runs for a person to read."""
    if not specs:
        raise InputError("no runs to plan; valid: a profile with tasks and seeds")
    model, data, precision = specs[0].model, specs[0].data, specs[0].precision
    shape, estimates = shape_of(model), [estimate(spec) for spec in specs]
    flops, peak = sum(each.flops for each in estimates), max(each.memory for each in estimates)
    lines = [
        f"runs       {len(specs)}: {', '.join(dict.fromkeys(spec.task for spec in specs))}",
        f"model      {model}, {shape.parameters / 1e6:,.0f}M weights",
        f"tokens     {sum(each.tokens for each in estimates) / 1e6:,.1f}M trained on, "
        f"{sum(each.evaluated for each in estimates) / 1e6:,.1f}M evaluated",
        f"FLOPs      {flops:.2e}",
        f"memory     {peak / 1e9:,.1f} GB at the peak of a run",
        *[
            f"hours      {flops / gpu[precision] / UTILISATION / 3600:,.2f} on one {name}"
            + _too_small(peak, gpu["memory"])
            for name, gpu in PEAKS.items()
        ],
        f"           at {UTILISATION:.0%} of the published {precision} peak; models below 1,000M weights reach less",
        f"download   {_download(model, shape, data)}",
        f"licence    {_licence(model, shape)}",
    ]
    return "\n".join(lines)


def _too_small(peak: int, room: float) -> str:
    return f": does not fit its {room:g} GB" if peak > room * 1e9 else ""


def _download(model: str, shape: Shape, data: str) -> str:
    if Path(checkpoint_path(model)).is_dir():
        return "none" if data != "hub" else "the tasks from the hub"
    size = f"about {2 * shape.parameters / 1e9:,.1f} GB of bfloat16 weights"  # twice that where a hub file is float32
    return size + (", and the tasks from the hub" if data == "hub" else "")


def _licence(model: str, shape: Shape) -> str:
    return f"{shape.licence}: accept it on the hub page of {model}, then `hf auth login`" if shape.licence else "none"
