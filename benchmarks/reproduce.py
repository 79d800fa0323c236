"""Wall time of `make reproduce` and where it goes, in a copy of the kit that has no finished runs yet.

It takes as long as `make reproduce` itself, so it is measured only when it is asked for by name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import Row
from gemma_encoder.memory import peak_memory
from gemma_encoder.paths import DATA, NOTEBOOKS, ROOT

CASE = "make reproduce"
LINE = re.compile(r"^\[\d+/\d+\] (?P<name>\S+): \w+, (?P<seconds>\d+) s", re.MULTILINE)
COPIED = (ROOT / "gemma_encoder", DATA, NOTEBOOKS)


def reproduce(data: Path | None, quick: bool) -> list[Row]:
    """One line for the whole, one for each notebook, and what lies outside of them; then training alone, and memory."""
    del data  # the tiny profile brings its own
    with tempfile.TemporaryDirectory() as folder:
        for source in COPIED:
            shutil.copytree(source, Path(folder, source.name), ignore=shutil.ignore_patterns("__pycache__", ".*"))
        command = [sys.executable, "-m", "gemma_encoder.cli", "reproduce", *(["--notebooks", "01"] if quick else [])]
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": folder}, capture_output=True, text=True
        )
        whole = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"reproduce: {done.stderr.strip().splitlines()[-1]}")
        timings = [json.loads(path.read_text()) for path in Path(folder, "reports/runs").glob("*/timing.json")]
    return rows_of(whole, done.stderr, timings)


def rows_of(whole: float, said: str, timings: list[dict[str, float]]) -> list[Row]:
    """The rows, from the seconds of the whole, what the runner said of each notebook, and the timing of each run."""
    notebooks = {found["name"]: float(found["seconds"]) for found in LINE.finditer(said)}
    seconds = {"whole": whole, **notebooks, "outside of the notebooks": whole - sum(notebooks.values())}
    table = [Row("reproduce", CASE, name, value=value, unit="s") for name, value in seconds.items()]
    training = sum(timing["train_seconds"] for timing in timings)
    note = f"{len(timings)} runs, some side by side"
    table.append(Row("reproduce", CASE, "training, summed over runs", value=training, unit="s", note=note))
    peaks = [timing["process_peak_mib"] for timing in timings]
    memory = max(peaks) if peaks else peak_memory(children=True)
    table.append(Row("reproduce", CASE, "memory of the largest process", value=memory, unit="MiB"))
    return table
