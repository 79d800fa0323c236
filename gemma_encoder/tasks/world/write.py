"""Write the built-in tasks as `<folder>/<suite>/<task>/<split>.jsonl`, msmarco without `<task>`; a seed fixes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from gemma_encoder.files import write_whole
from gemma_encoder.tasks.world.pairs import mnli, mrpc, rte, stsb, wic
from gemma_encoder.tasks.world.reading import PASSAGES, boolq, copa, msmarco, qnli
from gemma_encoder.tasks.world.sentences import cola, sst2, wsc

SIZES = {"train": 1600, "validation": 400, "test": 400}
OTHER_SIZES = {
    "sst2": {"train": 300},  # Difficulty: with more rows these two are learnt to the last one
    "wic": {"train": 300},
    "mrpc": {"train": 1100},  # Time: a run takes 15 s on one core at most
    "wsc": {"train": 1100},
    "copa": {"train": 650},  # a row has two choices to read
    "msmarco": {"train": 328, "validation": 200, "test": 200},  # a list has several passages to read
}
# folder of a task, with its name at the end -> maker(rng, split, label) giving the columns of a row
MAKERS: dict[str, Callable[[Random, str, int], dict]] = {
    **{f"glue/{maker.__name__}": maker for maker in (cola, sst2, mrpc, stsb, mnli, qnli, rte)},
    **{f"super_glue/{maker.__name__}": maker for maker in (boolq, copa, wic, wsc)},
    "msmarco": msmarco,
}
SPLITS = {"mnli": ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")}
CLASSES = {"mnli": 3, "msmarco": PASSAGES}


def splits_of(task: str) -> tuple[str, ...]:
    """The names of a task's splits."""
    return SPLITS.get(task, tuple(SIZES))


def rows(task: str, maker: Callable[[Random, str, int], dict], split: str, seed: int) -> list[dict]:
    """The rows of one split: labels in equal shares and random order, no text twice."""
    rng = Random(f"{seed} {task} {split}")
    size = (SIZES | OTHER_SIZES.get(task, {}))[split.partition("_")[0]]
    labels = [i % CLASSES.get(task, 2) for i in range(size)]
    rng.shuffle(labels)
    seen: set[tuple] = set()
    made: list[dict] = []
    while len(made) < len(labels):
        label = labels[len(made)]
        row = maker(rng, split, label)
        texts = tuple(value for value in row.values() if isinstance(value, str))
        if texts in seen or len(set(texts)) < len(texts):
            continue
        seen.add(texts)
        made.append(_list(row, label, split, len(made)) if task == "msmarco" else _row(row, label, len(made)))
    return made


def _row(row: dict, label: int, number: int) -> dict:
    return {**row, "label": row.get("label", label), "idx": number}


def _list(row: dict, right: int, split: str, number: int) -> dict:
    """A query with its passages; ids say where they come from."""
    name = f"{split}-{number}"
    passages = [
        {"passage_id": f"{name}-{place}", "text": text, "label": int(place == right)}
        for place, text in enumerate(row["passages"])
    ]
    return {"query_id": name, "query": row["query"], "passages": passages}


def write_tasks(folder: Path | str, seed: int = 0) -> Path:
    """Write every built-in task under `folder`; existing files are replaced."""
    folder = Path(folder)
    for place, maker in MAKERS.items():
        task = maker.__name__
        for split in splits_of(task):
            lines = (json.dumps(row, ensure_ascii=False) for row in rows(task, maker, split, seed))
            write_whole(folder / place / f"{split}.jsonl", "".join(f"{line}\n" for line in lines))
    return folder
