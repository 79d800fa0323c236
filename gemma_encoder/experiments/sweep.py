"""Many runs: finished ones are read, the rest go over a pool of processes, one run each on one thread."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from gemma_encoder.experiments.run import run
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.store import RUNS, RunResult, load
from gemma_encoder.progress import progress


class SweepError(RuntimeError):
    """Some runs of a sweep failed; the finished ones are stored. `failures` maps spec to exception."""

    def __init__(self, failures: dict[RunSpec, BaseException], total: int):
        spec, error = next(iter(failures.items()))
        super().__init__(f"{len(failures)} of {total} runs failed; first: {spec.task}, seed {spec.seed}: {error!r}")
        self.failures = failures


def _prepare() -> None:
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # Trainer collects garbage at every start; what is imported is none


def sweep(specs: Sequence[RunSpec], root: Path = RUNS, workers: int | None = None) -> list[RunResult]:
    """The results of `specs`, in order. Equal specs are run once; a run that fails does not stop the others.

    `workers` processes (default: one per core) train side by side, each on one thread, so that a result does not
    depend on how many there are. Raises SweepError at the end if runs failed.
    """
    results = {spec: load(spec, root) for spec in specs}
    missing = [spec for spec, result in results.items() if result is None]
    failures: dict[RunSpec, BaseException] = {}
    if missing:
        context = multiprocessing.get_context("spawn")  # torch's thread pools do not survive a fork
        count, read = min(workers or os.cpu_count() or 1, len(missing)), len(results) - len(missing)
        label = f"fine-tuning runs{f' ({read} more were finished before)' if read else ''}"
        with ProcessPoolExecutor(count, mp_context=context, initializer=_prepare) as pool:
            pending = {pool.submit(run, spec, root): spec for spec in missing}
            for future in progress(as_completed(pending), len(missing), label):
                if error := future.exception():
                    failures[pending[future]] = error
                else:
                    results[pending[future]] = future.result()
    if failures:
        raise SweepError(failures, len(missing))
    return [results[spec] for spec in specs]
