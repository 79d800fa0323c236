"""The kit's own tiny decoder: Gemma 2's architecture, pretrained causally on the built-in world.

pretrain(out, seed) leaves a folder that transformers loads offline: weights, tokenizer, training curve.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from gemma_encoder.errors import InputError
from gemma_encoder.experiments.muon import Muon
from gemma_encoder.files import whole_folder
from gemma_encoder.paths import check_writable
from gemma_encoder.tasks.world import documents

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
# Words of task templates: the tokenizer must know them, the language model never reads them.
COLUMNS = (
    "sentence: sentence1: sentence2: question: premise: hypothesis: passage: query: question1: question2: choice: "
    "choice1: choice2: text: word: paragraph: answer: span1: span2: entity: pronoun:"
)
LENGTH = 128
TOKENIZER_TEXTS = 20_000
CURVE = ("stage", "step", "tokens", "loss", "validation_loss", "learning_rate")


@dataclass(frozen=True)
class Stage:
    """A part of the training, with a warm-up, a cosine and optimizers of its own."""

    mix: str  # of the stream's documents
    steps: int  # updates
    batch: int  # rows of LENGTH tokens an update
    peak: float  # learning rate
    beginning: int = 0  # documents of the easier mix before those of `mix`
    bfloat16: bool = False  # arithmetic of the passes; weights and updates stay float32
    whole: bool = False  # every row begins with a document; what of its last one does not fit is left out


STAGES = (
    Stage("full", steps=26_000, batch=12, peak=8e-3, beginning=30_000, bfloat16=True),
    Stage("comparing", steps=8_500, batch=16, peak=4e-3),
    Stage("asking", steps=8_000, batch=16, peak=4e-3),
    Stage("quizzing", steps=8_000, batch=16, peak=4e-3, whole=True),
    Stage("judging", steps=700, batch=16, peak=4e-3, whole=True),
    Stage("settling", steps=2_600, batch=16, peak=4e-3, whole=True),
    Stage("finishing", steps=2_600, batch=16, peak=4e-3, whole=True),
)


def make_tokenizer(seed: int, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the stream; it puts one <bos> before a text and pads on the right."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    names = f"{COLUMNS}\n{COLUMNS.replace(' ', chr(10))}"  # at the beginning of a row no space stands before a name
    core.train_from_iterator(
        [*(f" {text}" for text in islice(documents(seed), TOKENIZER_TEXTS)), *[names] * (TOKENIZER_TEXTS // 40)],
        trainer,
    )
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=512,
    )


def make_decoder(vocab_size: int, seed: int, layers: int = 4, width: int = 128, hidden: int = 256) -> Gemma2ForCausalLM:
    """A small Gemma 2, random weights: soft-caps, local and global layers in turn, grouped queries, tied embedding."""
    head = width // 4
    config = Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head,
        query_pre_attn_scalar=head,
        sliding_window=32,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        max_position_embeddings=512,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<bos>"),
        eos_token_id=SPECIAL.index("<eos>"),
        attn_implementation="eager",  # sdpa cannot soft-cap
    )
    torch.manual_seed(seed)
    return Gemma2ForCausalLM(config)


def packed(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    split: str = "train",
    mix: str = "full",
    beginning: int = 0,
    whole: bool = False,
) -> Iterator[Tensor]:
    """Rows of LENGTH token ids: documents, each between <bos> and <eos>, laid end to end.

    A document that goes beyond its row is continued in the next one, where nothing tells what it is about; `whole`
    leaves that rest out, so that every row begins with a document.

    A space stands before a document, as in the row of a task, where a column name comes first: otherwise every word
    would have a second token for the beginning of a text.
    """
    texts, ids = (f" {text}" for text in documents(seed, split, mix, beginning)), []
    while True:
        for row in tokenizer(list(islice(texts, 256)))["input_ids"]:
            ids += [*row, tokenizer.eos_token_id]
            if whole and len(ids) >= LENGTH:
                yield torch.tensor(ids[:LENGTH])
                ids = []
        full = len(ids) // LENGTH * LENGTH
        yield from torch.tensor(ids[:full]).view(-1, LENGTH)
        ids = ids[full:]


def next_token_loss(model: Gemma2ForCausalLM, rows: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each token given those before it; rows (batch, seq)."""
    logits = model(input_ids=rows, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), rows[:, 1:].flatten())


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 200 steps (a tenth of a short run), then a cosine down to 2 % of the peak."""
    warm = min(200, max(1, steps // 10))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def optimizers(model: Gemma2ForCausalLM, peak: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon (Jordan et al., 2024) for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    norms = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [
        {"params": [model.model.embed_tokens.weight], "weight_decay": 0.05},
        {"params": norms, "weight_decay": 0.0},
    ]
    return (
        Muon(matrices, lr=peak, weight_decay=0.05),
        torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True),
    )


def _train(
    model: Gemma2ForCausalLM,
    rows: Iterator[Tensor],
    held_out: Tensor,
    stage: Stage,
    fast: bool,
) -> Iterator[tuple[float, ...]]:
    """Train through one stage; yields 25 times what CURVE names from "step" on."""
    updates = optimizers(model, stage.peak)
    loss_of = torch.compile(next_token_loss) if fast else next_token_loss
    recent = []
    for step in range(stage.steps):
        rate = learning_rate(step, stage.steps, stage.peak)
        for group in (group for optimizer in updates for group in optimizer.param_groups):
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=fast and stage.bfloat16):
            loss = loss_of(model, torch.stack(list(islice(rows, stage.batch))))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in updates:
            optimizer.step()
            optimizer.zero_grad()
        recent.append(loss.item())
        if (step + 1) % max(1, stage.steps // 25) == 0 or step + 1 == stage.steps:
            with torch.no_grad():
                held = next_token_loss(model, held_out).item()
            yield step + 1, (step + 1) * stage.batch * LENGTH, sum(recent) / len(recent), held, rate
            recent = []


def pretrain(
    out: Path | str,
    seed: int = 0,
    stages: Sequence[Stage] = STAGES,
    vocab_size: int = 1536,
    shape: tuple[int, int, int] = (4, 128, 256),
    fast: bool = True,
    log: Callable[[str], Any] = print,
) -> Path:
    """Pretrain and save into `out`, which must not exist; it appears only when it is whole.

    The defaults are those of the committed decoder. Every stage begins from the weights of the one before as they would
    be saved, in bfloat16. shape: layers, width, feed-forward width. fast: compile (needs a C++ compiler) and use the
    stages' bfloat16 arithmetic: the same recipe, other rounding. The same arguments on the same machine with the same
    number of threads give the same weights. Raises InputError if `out` exists.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"output folder {str(out)!r} exists; valid: a folder that does not exist yet")
    for stage in stages:
        if stage.steps < 1 or stage.batch < 1:
            raise InputError(f"steps {stage.steps} and batch {stage.batch}; valid: at least 1 each")
    check_writable(out.parent)  # before hours of training, not after
    tokenizer = make_tokenizer(seed, vocab_size)
    model = make_decoder(len(tokenizer), seed, *shape)
    held_out = torch.stack(list(islice(packed(tokenizer, seed + 1, "validation"), 32)))
    curve = []
    for number, stage in enumerate(stages, 1):
        model = model.to(torch.bfloat16).to(torch.float32) if number > 1 else model
        rows = packed(tokenizer, seed + 2 * (number - 1), mix=stage.mix, beginning=stage.beginning, whole=stage.whole)
        for values in _train(model, rows, held_out, stage, fast):
            curve.append(dict(zip(CURVE, (number, *values), strict=True)))
            log(" ".join(f"{name} {value:.4g}" for name, value in curve[-1].items()))
    facts = {"seed": seed, "sequence_length": LENGTH, "fast": fast, "stages": [asdict(stage) for stage in stages]}
    facts |= {
        "tokens": sum(stage.steps * stage.batch * LENGTH for stage in stages),
        "parameters": model.num_parameters(),
    }
    return _save(out, model, tokenizer, curve, facts)


def _save(
    out: Path,
    model: Gemma2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    curve: list[dict[str, float]],
    facts: dict[str, Any],
) -> Path:
    losses = {name: round(curve[-1][name], 4) for name in ("loss", "validation_loss")}
    with whole_folder(out) as folder:
        tokenizer.save_pretrained(folder)
        model.to(torch.bfloat16).save_pretrained(folder)
        with open(folder / "training_curve.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, CURVE, lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: round(value, 6) for name, value in row.items()} for row in curve)
        (folder / "pretraining.json").write_text(json.dumps(facts | losses, indent=2) + "\n")
    return out
