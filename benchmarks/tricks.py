"""Every trick that makes the kit fast, with it and without it. The trick's row comes first in each case."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemma_encoder.model
from benchmarks.anatomy import update
from benchmarks.contenders import kit_model
from benchmarks.timing import Row, clocked, take_turns
from benchmarks.workload import Work, config_of, work
from gemma_encoder import attention, inference, linear, visibility
from gemma_encoder.attention import formula
from gemma_encoder.configuration import planned_masks
from gemma_encoder.dropout import Dropout
from gemma_encoder.gemma2 import Angles, Rotation
from gemma_encoder.inference import in_batches
from gemma_encoder.loading import TINY
from gemma_encoder.memory import keep_freed_memory
from gemma_encoder.model import GemmaEncoder, GemmaEncoderPreTrainedModel
from gemma_encoder.norm import RMSNorm
from gemma_encoder.paths import ROOT
from gemma_encoder.visibility import look

Pair = dict[str, Callable[[], object]]
# what was tried, where, how many times as fast, remark
LEFT_OUT = [
    ("keys of grouped-query attention not repeated: queries of a key side by side", "tiny, SST-2, training", 1.02, ""),
    ("keys of grouped-query attention not repeated: queries of a key side by side", "30M, SST-2, training", 0.93, ""),
    ("scaling on the scores in place of the query, in place", "tiny, SST-2, training", 0.93, "30M: 0.99"),
    ("groups of like length three times as cheap", "tiny, SST-2, training", 0.90, "twice the groups"),
    ("groups of like length eight times as dear", "tiny, SST-2, training", 0.92, "two groups"),
    (
        "rows side by side in one row of attention, one group of all",
        "tiny, SST-2, training",
        1.02,
        "in a later version",
    ),
    ("gradient of the norm by that of torch's layer norm", "tiny, SST-2, training", 0.99, "in a later version"),
    (
        "groups 16 keys wide at least, as a softmax over fewer is slow",
        "tiny, SST-2, training",
        1.01,
        "two threads, in a later version; 30M: 1.00",
    ),
    (
        "slots of a gradient gathered and masked in place of scattered",
        "tiny, SST-2, training",
        1.00,
        "two threads, in a later version",
    ),
    (
        "gated activation in blocks of 64 tokens, which a core's cache holds",
        "30M, these operations alone",
        0.89,
        "two threads, in a later version; blocks of 352: 0.97",
    ),
    ("layers compiled", "tiny, SST-2, training", 0.64, "two threads; compile_layers, which pays on a GPU"),
    ("layers compiled", "30M, SST-2, training", 0.83, "two threads; compile_layers, which pays on a GPU"),
]


def tricks(data: Path | None, quick: bool) -> list[Row]:
    """All tricks; the whole model where they act on it, the bare operation where they are one."""
    shape, rows = TINY if quick else "30M", work("SST-2", 32, data)
    many = work("SST-2", 64 if quick else 256, data)
    cases: dict[str, Pair] = {
        f"{shape}: training without padding": unpadding(shape, rows),
        f"{shape}: inference sorted by length": sorting(shape, many),
        f"{shape}: inference in batches of like many tokens": filling(shape, many),
        f"{shape}: inference without padding": unpadded_inference(shape, many),
        f"{shape}: training, rows of like length opened together": without(shape, rows, GROUPING),
        f"{shape}, QNLI: training, rows of like length opened together": without(
            shape, work("QNLI", 16, data), GROUPING
        ),
        f"{shape}: one bias a kind of layer": biases(shape, rows),
        f"{shape}: fused optimiser": optimisers(shape),
        "attention of 32 rows of 64, soft-cap: fewer passes over the pairs": passes(64),
        "attention of 32 rows of 64, no soft-cap: fused kernel": kernels(64),
        "attention of 4 rows of 512, no soft-cap: fused kernel": kernels(512),
    }
    shapes = (TINY,) if quick else (TINY, "30M")
    for shape in shapes:
        for what, (replacements, always) in REPLACEMENTS.items():
            cases[f"{shape}: training, {what}"] = without(shape, rows, replacements, always)
    cases[f"{TINY}: training, batches filled up to few numbers of tokens"] = filling_up(8 if quick else 100, data)
    cases[f"{TINY}, BoolQ: training, dropout of 16 bits a value"] = without(TINY, work("BoolQ", 16, data), DROPOUT)
    table = []
    for case, pair in cases.items():
        taken = take_turns({name: clocked(call) for name, call in pair.items()}, 1 if quick else 5)
        table += [Row("tricks", case, name, seconds) for name, seconds in taken.items()]
    for shape in shapes:
        table += keeping(shape, 1 if quick else 5)
    return table + [
        Row("left out", case, name, value=value, unit="times as fast", note=note)
        for name, case, value, note in LEFT_OUT
    ]


def keeping(shape: str, rounds: int) -> list[Row]:
    """Ten updates in a process that keeps freed memory, and in one that does not, in turns; nothing takes it back."""
    taken: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(rounds):
        for name, seconds in taken.items():
            command = [sys.executable, "-m", "benchmarks.tricks", shape, name]
            seconds.append(float(subprocess.check_output(command, cwd=ROOT, text=True)))
    case = f"{shape}: freed memory is kept (a process each)"
    return [Row("tricks", case, name, seconds) for name, seconds in taken.items()]


def ten_updates(shape: str, name: str) -> float:
    """Seconds of ten updates in this process, after two that are not counted."""
    if name == "with":
        keep_freed_memory()
    model, lengths = kit_model(shape).train(), list(map(len, work("SST-2", 32).ids))
    for _ in range(2):
        update(model, lengths)
    return clocked(lambda: [update(model, lengths) for _ in range(10)])()


Replacements = Sequence[tuple[object, str, object]]  # owner, name, and what stands there


def without(shape: str, rows: Work, replacements: Replacements, always: Replacements = ()) -> Pair:
    """Forward and backward of one batch, as it is and with `replacements`; `always` are made in both."""
    model, lengths = kit_model(shape).train(), list(map(len, rows.ids))
    call = partial(update, model, lengths)
    return {"with": partial(replaced, call, always), "without": partial(replaced, call, [*always, *replacements])}


def replaced(call: Callable[[], object], replacements: Replacements) -> None:
    """`call` with `replacements`."""
    with ExitStack() as stack:
        for replacement in replacements:
            stack.enter_context(patch.object(*replacement))
        call()


def filling_up(count: int, data: Path | None) -> Pair:
    """Forward and backward of many batches, hardly two of which have as many tokens."""
    model, rows = kit_model(TINY).train(), work("SST-2", 32 * count, data)
    lengths = list(map(len, rows.ids))

    def call() -> None:
        for start in range(0, len(lengths), 32):
            update(model, lengths[start : start + 32])

    return {"with": call, "without": partial(replaced, call, [(gemma_encoder.model, "spare", lambda *known: 0)])}


def _chain(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The norm as a chain of operations, through which autograd walks back."""
    exact = states.float()
    normed = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
    return (normed * (1.0 + weight.float())).type_as(states)


def _drawn_one_by_one(dropout: Dropout, states: Tensor) -> Tensor | None:
    """`Dropout.noise` as torch draws it."""
    return F.dropout(torch.ones_like(states), dropout.p) if dropout.training and dropout.p else None


def _read_by_all_heads(angles: Angles, heads: int, key_heads: int) -> tuple[Rotation, Rotation]:
    """`Angles.by_head` made anew in every layer, of one copy for all heads."""
    cos, sin = (each.transpose(0, 1) for each in angles)
    sin = sin.clone()
    sin[..., : sin.shape[-1] // 2].neg_()
    return (cos, sin), (cos, sin)


def _never(*args: object) -> bool:
    return False


NORM = [(RMSNorm, "apply", _chain)]
MKL = [(linear, "_family", lambda: None)]
SUBLAYERS = [(gemma_encoder.model, "sublayers_written_out", _never)]
ATTENTION = [(attention, "attention_written_out", _never)]
OPENING = [
    (visibility.Open, "apply", lambda states, index, slots: states.index_select(0, index)),
    (visibility.Close, "apply", lambda states, slots: states.index_select(0, slots)),
]
GROUPING = [(visibility, "GROUP", math.inf)]  # all rows of a batch are opened together
UNREAD = [(GemmaEncoder, "_reading", lambda encoder, visibility, real: visibility)]  # all states are computed
ANGLES = [(Angles, "by_head", _read_by_all_heads)]
DROPOUT = [(Dropout, "noise", _drawn_one_by_one)]
REPLACEMENTS: dict[str, tuple[Replacements, Replacements]] = {  # without the trick, and with it and without alike
    "linear layers by oneDNN": (MKL, ()),
    "sublayers of Gemma 2 in one function each, the last for what the pooler reads": (SUBLAYERS, ()),
    "last layer for what the pooler reads": (UNREAD, ()),
    "dropout of 16 bits a value": (DROPOUT, ()),
    "angles laid out for every head, once for all layers": (ANGLES, ()),
    "sublayers by modules, attention of Gemma 2 in one function": (ATTENTION, SUBLAYERS),
    "sublayers by modules, gradient of the norm written out": (NORM, SUBLAYERS),
    "attention by autograd, gradients of opening and closing written out": (OPENING, [*SUBLAYERS, *ATTENTION]),
}


def passes(width: int) -> Pair:
    """Attention with a soft-cap, forward and backward: as it is computed, and as the formula is written."""
    states, bias = _states(width)
    dropout = nn.Dropout(0.1)

    def as_written() -> None:
        query, key, value = states
        scores = 50.0 * torch.tanh(query @ key.transpose(2, 3) * 0.125 / 50.0)
        (dropout(F.softmax(scores + bias, dim=-1)) @ value).sum().backward()

    return {"with": lambda: formula(*states, bias, 0.125, 50.0, dropout)[0].sum().backward(), "without": as_written}


def _states(width: int) -> tuple[list[Tensor], Tensor]:
    """Query, key and value of 2048 tokens in rows of one width, and a bias that lets everyone read everyone."""
    config = config_of("30M")
    shape = (2048 // width, config.num_attention_heads, width, config.head_dim)
    return [torch.randn(shape, requires_grad=True) for _ in range(3)], torch.zeros(shape[0], 1, width, width)


def unpadding(shape: str, rows: Work) -> Pair:
    """Forward and backward of one batch, packed and padded."""
    lengths = list(map(len, rows.ids))
    models = {"with": kit_model(shape).train(), "without": kit_model(shape, unpadded=False).train()}
    return {name: partial(update, model, lengths) for name, model in models.items()}


def sorting(shape: str, rows: Work) -> Pair:
    """Inference over batches of rows of like length, and over batches of neighbours."""
    model = kit_model(shape)

    def unsorted() -> None:
        with patch.object(inference, "like_length", lambda lengths, slots: rows_of_32(range(len(lengths)))):
            in_batches(model, rows.ids, model.row_logits, 32)

    return {"with": lambda: by_rows(model, rows), "without": unsorted}


def rows_of_32(order: Sequence[int]) -> list[list[int]]:
    """Batches of as many rows each, whatever their lengths."""
    return [list(order[start : start + 32]) for start in range(0, len(order), 32)]


def by_rows(model: GemmaEncoderPreTrainedModel, rows: Work) -> None:
    """Inference over sorted rows in batches of as many rows each."""

    def sort(lengths: list[int], slots: int) -> list[list[int]]:
        return rows_of_32(sorted(range(len(lengths)), key=lengths.__getitem__))

    with patch.object(inference, "like_length", sort):
        in_batches(model, rows.ids, model.row_logits, 32)


def filling(shape: str, rows: Work) -> Pair:
    """Inference over sorted rows, in batches of as many slots each and of as many rows each."""
    model = kit_model(shape)
    return {
        "with": lambda: in_batches(model, rows.ids, model.row_logits, 32),
        "without": lambda: by_rows(model, rows),
    }


def unpadded_inference(shape: str, rows: Work) -> Pair:
    """Inference over sorted rows, packed and padded."""
    models = {"with": kit_model(shape), "without": kit_model(shape, unpadded=False)}
    return {name: partial(in_batches, model, rows.ids, model.row_logits, 32) for name, model in models.items()}


def biases(shape: str, rows: Work) -> Pair:
    """The attention biases of a batch, built once for each kind of layer and once for each layer."""
    lengths = torch.tensor([len(row) for row in rows.ids])
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    masks = planned_masks(kit_model(shape).config)
    each = [[mask] for mask in masks]
    return {
        "with": lambda: look(real, masks, torch.float32),
        "without": lambda: [look(real, one, torch.float32) for one in each],
    }


def optimisers(shape: str) -> Pair:
    """One step of AdamW over all weights, fused and tensor by tensor."""
    pair = {}
    for name, settings in {"with": {"fused": True}, "without": {"foreach": False}}.items():
        model = kit_model(shape)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) * 1e-4
        pair[name] = torch.optim.AdamW(model.parameters(), lr=1e-9, **settings).step
    return pair


def kernels(width: int) -> Pair:
    """Attention forward and backward without a soft-cap, dropout 0.1: torch's kernel and the plain formula."""
    (states, bias), dropout = _states(width), nn.Dropout(0.1)
    return {
        "with": lambda: F.scaled_dot_product_attention(*states, bias, dropout_p=0.1, scale=0.125).sum().backward(),
        "without": lambda: formula(*states, bias, 0.125, None, dropout)[0].sum().backward(),
    }


if __name__ == "__main__":
    print(ten_updates(*sys.argv[1:]))
