"""Write the built-in tasks as `<folder>/<suite>/<task>/<split>.jsonl`; the same seed gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from gemma_encoder.tasks.world.grammar import SPLITS
from gemma_encoder.tasks.world.pairs import mrpc, qnli, rte, stsb
from gemma_encoder.tasks.world.sentences import cola, sst2

SIZES = {"train": 2400, "validation": 400, "test": 400}
# suite -> task -> maker(rng, split, label) giving the columns of a row
MAKERS: dict[str, dict[str, Callable[[Random, str, int], dict]]] = {
    "glue": {"cola": cola, "sst2": sst2, "mrpc": mrpc, "stsb": stsb, "qnli": qnli, "rte": rte}
}


def rows(task: str, maker: Callable[[Random, str, int], dict], split: str, seed: int) -> list[dict]:
    """The rows of one split: labels in equal shares and random order, no text twice."""
    rng = Random(f"{seed} {task} {split}")
    labels = [i % 2 for i in range(SIZES[split])]
    rng.shuffle(labels)
    seen: set[tuple] = set()
    made: list[dict] = []
    while len(made) < len(labels):
        label = labels[len(made)]
        row = maker(rng, split, label)
        text = tuple(value for name, value in row.items() if name != "label")
        if text in seen or len(set(text)) < len(text):
            continue
        seen.add(text)
        made.append({**row, "label": row.get("label", label), "idx": len(made)})
    return made


def write_tasks(folder: Path | str, seed: int = 0) -> Path:
    """Write every built-in task under `folder`; existing files are replaced."""
    folder = Path(folder)
    for suite, makers in MAKERS.items():
        for task, maker in makers.items():
            (folder / suite / task).mkdir(parents=True, exist_ok=True)
            for split in SPLITS:
                lines = (json.dumps(row, ensure_ascii=False) for row in rows(task, maker, split, seed))
                (folder / suite / task / f"{split}.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode())
    return folder
