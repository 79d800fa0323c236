"""Numbers of the literature, read from data/paper/*.csv. What is not known is a row that says so, never a guess.

Columns, confidence marks and sources are explained in data/paper/README.md; known conflicts are in errata.csv there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pandas as pd

from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.paths import DATA

FOLDER = DATA / "paper"
FILES = ("results.csv", "baselines.csv")
COLUMNS = (
    "source_id", "work", "place", "section", "model", "attention", "pooling", "dropout", "padding",
    "task", "metric", "split", "value", "unit", "status", "confidence", "note",
)  # fmt: skip
MARKS = {
    "A": "read in the source",
    "A-": "re-checked against the source by others",
    "B": "second-hand",
    "C": "inferred",
    "X": "not credible",
}
# Experiments make up their own models, tasks and variants, so asking for one the literature never had is no mistake.
OPEN = ("model", "attention", "pooling", "dropout", "padding", "task")


@dataclass(frozen=True)
class Published:
    """One published value and where it stands; value None means that it is not known."""

    value: float | None
    place: str = ""
    confidence: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "not published here"
        return f"{self.value} ({self.place}, {MARKS[self.confidence]} [{self.confidence}])"


@cache
def _table() -> pd.DataFrame:
    parts = [pd.read_csv(FOLDER / name, dtype=str, keep_default_na=False) for name in FILES]
    table = pd.concat(parts, ignore_index=True)
    for column in ("value", "dropout"):
        table[column] = pd.to_numeric(table[column])
    return table


def published(**filters: object) -> pd.DataFrame:
    """The rows whose columns equal `filters`. An unknown column, work, place, metric ... is an InputError."""
    table = _table()
    for column, wanted in filters.items():
        check_choice("column", column, COLUMNS)
        if column not in OPEN and column not in ("value", "note"):
            check_choice(column, wanted, table[column].unique())
        table = table[table[column] == wanted]
    return table.copy()


def value(**filters: object) -> Published:
    """The one published value that answers `filters`; rows that repeat it (89.4 closes three tables) count as one.

    InputError if known rows disagree: either the filters leave open which value is meant, or two sources contradict
    each other, and then `source_id` or `place` says which is wanted. All numbers are named, none is preferred.
    """
    known = published(**filters).query("status == 'known'")
    if known.empty:
        return Published(None)
    if known["value"].nunique() > 1:
        found = ", ".join(
            f"{row.value} ({row.source_id}: {row.work}, {row.place}, {row.model})" for row in known.itertuples()
        )
        raise InputError(f"filters {filters} leave several values: {found}; narrow them, if need be by source_id")
    weakest = max(known["confidence"], key=list(MARKS).index)
    return Published(float(known["value"].iloc[0]), ", ".join(dict.fromkeys(known["place"])), weakest)
