"""Results on disk, part by part. Few imports: a GPU machine stores rows, and their page is made elsewhere.

Table and page of what is stored: `python -m benchmarks.report FOLDER`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.timing import Row
from gemma_encoder.errors import InputError
from gemma_encoder.files import write_whole
from gemma_encoder.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results"
FILE = "results.json"


def store(part: str, how: str, rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Put the rows of a part in place of its earlier ones; parts measured in another environment are dropped."""
    path, parts = out / FILE, {}
    if path.is_file() and (stored := json.loads(path.read_text()))["environment"] == known:
        parts = stored["parts"]
    parts[part] = {"measured in": how, "rows": list(map(asdict, rows))}
    write_whole(path, json.dumps({"environment": known, "parts": parts}, indent=1))


def stored(out: Path) -> tuple[list[Row], dict[str, str]]:
    """Every row of a folder, and what its readers have to know."""
    if not (out / FILE).is_file():
        raise InputError(f"no {FILE} in {str(out)!r}; valid: a folder that a benchmark wrote")
    found = json.loads((out / FILE).read_text())
    rows = [Row(**row) for part in found["parts"].values() for row in part["rows"]]
    how = {f"{name}, measured in": part["measured in"] for name, part in found["parts"].items()}
    return rows, found["environment"] | how
