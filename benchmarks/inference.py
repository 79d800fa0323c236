"""`predict`, `embed` and `rank` against the usual alternatives: equal outputs first, time second.

`pipeline` and CrossEncoder run transformers' own classifier, SentenceTransformer transformers' own decoder with mean
pooling; "our export" is the same libraries on a checkpoint of ours.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor
from transformers import pipeline

from benchmarks.contenders import cross_encoder, halves, kit_model, stored_beside
from benchmarks.timing import Row, clocked, take_turns
from benchmarks.workload import Work, tokenizer, upstream, work
from gemma_encoder import GemmaEncoder, GemmaEncoderForRanking, embed, predict, rank
from gemma_encoder.export import export_cross_encoder, export_sentence_transformer
from gemma_encoder.model import GemmaEncoderPreTrainedModel

BATCH = 32
ALIKE = 1e-4  # relative to the largest value
MORE = 16  # tokens that a query adds to a row at most: nobody cuts a row that others read whole
Calls = dict[str, Callable[[], Tensor]]


def inference(data: Path | None, quick: bool) -> list[Row]:
    """Every case: contenders in turn, over the same texts."""
    table = []
    for shape, count in ({"tiny": 256} if quick else {"tiny": 512, "30M": 128}).items():
        texts = work("SST-2", count, data)
        lists = work("MS MARCO", 32, data)
        with tempfile.TemporaryDirectory() as folder:
            for case, calls in (
                ("predict", predicting(shape, texts)),
                ("embed", embedding(shape, texts, Path(folder))),
                ("rank", ranking(shape, lists, Path(folder))),
            ):
                rows = lists if case == "rank" else texts
                table += compare(f"{shape}, {case}, {rows.name}", calls, rows, budget=2 if quick else 10)
    return table


def compare(case: str, calls: Calls, rows: Work, budget: float) -> list[Row]:
    """Rows of a case; contenders whose outputs can be those of the first are held to it."""
    reference, *others = [call() for call in calls.values()]
    for name, other in zip(list(calls)[1:], others, strict=True):
        gap = ((other - reference).abs().max() / reference.abs().max()).item()
        if "another head" not in name and gap > ALIKE:
            raise RuntimeError(f"{case}: outputs of {name} differ by {gap:.1e} from the kit's")
    taken = take_turns({name: clocked(call) for name, call in calls.items()}, budget)
    return [Row("inference", case, name, taken[name], rows.tokens, len(rows.ids)) for name in calls]


def predicting(shape: str, rows: Work) -> Calls:
    """`predict` against pipeline and CrossEncoder; the head is ours on our side and one linear layer on theirs."""
    ours, theirs = kit_model(shape), upstream(shape).eval()
    theirs.config.pad_token_id = tokenizer().pad_token_id
    pipe = pipeline("text-classification", model=theirs, tokenizer=tokenizer(), device="cpu", top_k=None)
    cross, pairs = cross_encoder(upstream(shape), rows.max_length), halves(rows.texts)

    def piped() -> Tensor:
        settings = {"batch_size": BATCH, "function_to_apply": "none"}
        answers = [sorted(answer, key=lambda one: one["label"]) for answer in pipe(rows.texts, **settings)]
        return torch.tensor([[one["score"] for one in answer] for answer in answers])

    return {
        "kit": lambda: predict(ours, tokenizer(), rows.texts, BATCH),
        "pipeline (another head)": piped,
        "CrossEncoder.predict (another head)": lambda: cross.predict(
            pairs, batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False
        ),
    }


def embedding(shape: str, rows: Work, folder: Path) -> Calls:
    """`embed` against SentenceTransformer.encode on the same decoder, and on our export."""
    decoder = upstream(shape).base_model
    backbone = Transformer(
        str(stored_beside(folder / "decoder", decoder)), model_kwargs={"attn_implementation": "eager"}
    )
    theirs = SentenceTransformer(modules=[backbone, Pooling(decoder.config.hidden_size, "mean")], device="cpu")
    own = upstream(shape).base_model
    own.config.sliding_window += 1
    ours = GemmaEncoder.from_decoder(own, pooling="mean")
    export_sentence_transformer(ours, tokenizer(), folder / "vectors", rows.max_length)
    exported = SentenceTransformer(str(folder / "vectors"), device="cpu")

    def encoded(model: SentenceTransformer) -> Tensor:
        return model.encode(rows.texts, batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False)

    return {
        "kit": lambda: embed(ours, tokenizer(), rows.texts, BATCH),
        "SentenceTransformer.encode": lambda: encoded(theirs),
        "SentenceTransformer.encode, our export": lambda: encoded(exported),
    }


def ranking(shape: str, rows: Work, folder: Path) -> Calls:
    """`rank` against CrossEncoder.predict over the same query and passages."""
    decoder = upstream(shape).base_model
    decoder.config.sliding_window += 1
    ours: GemmaEncoderPreTrainedModel = GemmaEncoderForRanking.from_decoder(decoder, pooling="last")
    export_cross_encoder(ours, tokenizer(), folder / "scores", rows.max_length + MORE)
    exported = CrossEncoder(str(folder / "scores"), device="cpu")
    query, passages = rows.texts[0].split()[:8], rows.texts
    pairs = [(" ".join(query), passage) for passage in passages]
    cross = cross_encoder(upstream(shape), rows.max_length + MORE)

    def ranked() -> Tensor:
        found = dict(rank(ours, tokenizer(), " ".join(query), passages, BATCH))
        return torch.tensor([found[index] for index in range(len(passages))])

    def scored(model: CrossEncoder) -> Tensor:
        return model.predict(pairs, batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False)

    return {
        "kit": ranked,
        "CrossEncoder.predict (another head)": lambda: scored(cross)[:, 0],
        "CrossEncoder.predict, our export": lambda: scored(exported),
    }
