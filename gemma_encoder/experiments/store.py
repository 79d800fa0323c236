"""Results on disk. A run's folder is named by the hash of everything that made it, and appears whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import IO, Any

import torch

from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.files import whole_folder
from gemma_encoder.loading import model_digest
from gemma_encoder.paths import PACKAGE, REPORTS
from gemma_encoder.tasks import digest as data_digest
from gemma_encoder.tasks import get_task

NUMBER = int | float
RUNS = REPORTS / "runs"
# what can change a number: the method, the tasks and the training itself; not the command line or the reports
TRAINING = tuple(f"experiments/{name}.py" for name in ("run", "splits", "watch"))
CODE = ("*.py", "tasks/*.py", *TRAINING)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its spec, what it scored, how training went, and where its files are."""

    spec: RunSpec
    metrics: dict[str, float]  # after the last step, each in [-1, 1]
    score: float  # the task's score in points, 100 is perfect
    curve: list[dict[str, float]]  # one row an epoch
    timing: dict[str, float]  # seconds of training and of evaluation, tokens, tokens per second, peak memory in MiB
    environment: dict[str, str]
    folder: Path


@cache
def code_digest() -> str:
    """sha256 over the source files that can change a result."""
    whole = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in PACKAGE.glob(pattern) if path.name != "cli.py"):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def identity(spec: RunSpec) -> dict[str, object]:
    """What makes a result: settings, the task's definition, content of model and data, code, and what computes."""
    task = get_task(spec.task)
    return {
        **spec.settings(),
        "task_definition": asdict(task),
        "model_sha256": model_digest(spec.model),
        "data_sha256": data_digest(task, spec.data),
        "code_sha256": code_digest(),
        "torch": _series(torch.__version__),
        "transformers": _series(version("transformers")),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def _series(version: str) -> str:
    """Major and minor number: what comes behind repairs faults."""
    return ".".join(version.split(".")[:2])


def run_folder(spec: RunSpec, root: Path = RUNS) -> Path:
    """Where the result of `spec` lies, or will lie."""
    key = hashlib.sha256(json.dumps(identity(spec), sort_keys=True).encode()).hexdigest()[:16]
    return root / f"{spec.task}-{key}"


def load(spec: RunSpec, root: Path = RUNS) -> RunResult | None:
    """The finished result of `spec`, or None; files that are missing, cut off or of something else are no result."""
    folder = run_folder(spec, root)
    try:
        metrics, timing = (_values((folder / f"{name}.json").read_text(), NUMBER) for name in ("metrics", "timing"))
        environment = _values((folder / "environment.json").read_text(), str)
        curve = [_values(line, NUMBER) for line in (folder / "curve.jsonl").read_text().splitlines()]
        score = metrics.pop("score")
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if len(curve) != spec.epochs or not all((folder / name).is_file() for name in ("spec.json", "predictions.jsonl")):
        return None
    return RunResult(spec, metrics, score, curve, timing, environment, folder)


def _values(text: str, kind: type | UnionType) -> dict[str, Any]:
    """A JSON object whose values are all of this kind; else a ValueError."""
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(value, kind) for value in found.values()):
        raise ValueError(f"not an object of {kind}")
    return found


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process at a time is in this block, the others wait; the file `lock` is there as long as one of them is."""
    while True:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the system gives it free when a process is killed
            if not _is_at(file, lock):  # the one before has removed it: a third process may have locked a new one
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def save(result: RunResult, predictions: list[dict], root: Path = RUNS) -> RunResult:
    """Write a finished run, in place of one that cannot be read; returns the result as it lies on disk."""
    target = run_folder(result.spec, root)
    if finished := load(result.spec, root):
        return finished  # of the same run, and as good
    shutil.rmtree(target, ignore_errors=True)
    with whole_folder(target) as folder:
        parts = {
            "spec": {**asdict(result.spec), **identity(result.spec)},
            "metrics": {**result.metrics, "score": result.score},
            "timing": result.timing,
            "environment": result.environment,
        }
        for name, content in parts.items():
            (folder / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        (folder / "curve.jsonl").write_text(_lines(result.curve))
        (folder / "predictions.jsonl").write_text(_lines(predictions))
    return load(result.spec, root)
