"""Many runs: finished ones are read, the rest go over a pool of processes, one run each on one thread."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from gemma_encoder.errors import CommandFailed
from gemma_encoder.experiments.run import run
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.store import RUNS, RunResult, load
from gemma_encoder.processes import end_with_parent
from gemma_encoder.progress import progress


class SweepError(CommandFailed):
    """Some runs of a sweep failed; the finished ones are stored. `failures` maps spec to exception."""

    def __init__(self, failures: dict[RunSpec, BaseException], total: int):
        spec, error = next(iter(failures.items()))
        super().__init__(f"{len(failures)} of {total} runs failed; first: {spec.task}, seed {spec.seed}: {error!r}")
        self.failures = failures


def _prepare() -> None:
    import torch

    end_with_parent()
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # at Ctrl-C the process that started this one speaks
    torch.set_num_threads(1)
    gc.freeze()  # Trainer collects garbage at every start; what is imported is none


def sweep(specs: Sequence[RunSpec], root: Path = RUNS, workers: int | None = None) -> list[RunResult]:
    """The results of `specs`, in order. Equal specs are run once; a run that fails does not stop the others.

    `workers` processes (default: one per core) train side by side, each on one thread, so that a result does not
    depend on how many there are. Runs that were under way when the system killed a process are tried once more, one
    after the other. Raises SweepError at the end if runs failed.
    """
    results = {spec: load(spec, root) for spec in specs}
    missing = [spec for spec, result in results.items() if result is None]
    failures: dict[RunSpec, BaseException] = {}
    if missing:
        read = len(results) - len(missing)
        label = f"fine-tuning runs{f' ({read} more were finished before)' if read else ''}"
        for spec, future in progress(_outcomes(missing, root, workers or os.cpu_count() or 1), len(missing), label):
            if error := future.exception():
                failures[spec] = error
            else:
                results[spec] = future.result()
    if failures:
        raise SweepError(failures, len(missing))
    return [results[spec] for spec in specs]


def _outcomes(specs: Sequence[RunSpec], root: Path, workers: int) -> Iterator[tuple[RunSpec, Future]]:
    """Every spec with how its run ended, as they end."""
    waiting, again = deque(specs), []
    while waiting:  # each round begins with a new pool, since one that lost a process takes no more
        for spec, future in _pooled(waiting, root, workers):
            if isinstance(future.exception(), BrokenProcessPool):
                again.append(spec)
            else:
                yield spec, future
    for spec in again:  # alone, so that only the one that is to blame fails
        yield from _pooled(deque([spec]), root, 1)


def _pooled(waiting: deque[RunSpec], root: Path, workers: int) -> Iterator[tuple[RunSpec, Future]]:
    """Takes from `waiting` what it starts, no more at a time than there are processes, until one of these is killed."""
    context = multiprocessing.get_context("spawn")  # torch's thread pools do not survive a fork
    running: dict[Future, RunSpec] = {}
    with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context, initializer=_prepare) as pool:
        broken = False
        while running or (waiting and not broken):
            while waiting and len(running) < workers and not broken:
                try:
                    running[pool.submit(run, waiting[0], root)] = waiting[0]
                    waiting.popleft()
                except BrokenProcessPool:
                    broken = True
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                broken |= isinstance(future.exception(), BrokenProcessPool)
                yield running.pop(future), future
