"""Fine-tuning throughput and peak memory of the kit and of the usual alternatives.

Every contender runs in its own process, as in normal use: only the kit's processes keep freed memory, and no contender
finds memory as another left it. Where tensors happen to lie makes a whole process a few percent faster or slower, so
the processes of a case are started several times.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import torch
from transformers import Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.contenders import (
    CROSS,
    DYNAMIC,
    FULL,
    GROUPED,
    KIT,
    KIT_GROUPED,
    KIT_MEAN,
    KIT_PADDED,
    NOTES,
    OTHERS,
    contender,
    disagreement,
    one_epoch,
)
from benchmarks.timing import Row, own_processes, take_turns
from benchmarks.workload import MAX_LENGTH, Work, work
from gemma_encoder.memory import keep_freed_memory, peak_memory
from gemma_encoder.paths import ROOT

ALIKE = 1e-5  # largest relative difference between states that are the same but for rounding
MAIN = (KIT, DYNAMIC, GROUPED)
MORE = (KIT, FULL, CROSS, KIT_GROUPED, KIT_MEAN, KIT_PADDED)  # in turns of their own, as some take long
FEW = {"30M": (KIT, DYNAMIC)}  # on the long tasks, where the others take minutes
STARTS = 3  # of the processes of a case
BUDGET = 20  # seconds of the turns of a start, after the first one of each
BATCH, POOL = 32, 50  # rows of an update; updates whose rows Trainer sorts by length at a time, in a long training set
STEPS = {"tiny": {"SST-2": POOL}, "30M": {"SST-2": 6, "BoolQ": 2}}  # updates of an epoch, of those of the pool
ELSEWHERE = {"tiny": 8, "30M": 4}  # and of a task that is not named
Turns = Mapping[str, tuple[str, ...]]  # a case: the contenders that take turns in it


def measure(
    shape: str, name: str, turns: Turns, data: Path | None, steps: int, starts: int = STARTS, budget: float = BUDGET
) -> list[Row]:
    """Contenders in turn over the same rows, case by case, after their states were found equal."""
    gap = disagreement(shape, work(name, 4, data))
    if gap > ALIKE:
        raise RuntimeError(f"states differ by {gap:.1e} on {name}, {shape}: there is nothing to compare")
    rows, table = training_rows(name, steps, data), []
    for case, names in turns.items():
        taken: dict[str, list[float]] = {each: [] for each in names}
        for _ in range(starts):
            calls = {each: partial(_epoch, each, shape, name, data, steps) for each in names}
            with own_processes(calls, preload=__name__) as processes:
                for each, seconds in take_turns(processes, budget, least=1).items():
                    taken[each] += seconds
        table += [
            Row("training", case, each, taken[each], rows.tokens, len(rows.ids), note=NOTES.get(each, ""))
            for each in names
        ]
    return table


def _epoch(*of: object) -> float:
    return one_epoch(_prepared(*of))


@cache
def _prepared(each: str, shape: str, name: str, data: Path | None, steps: int) -> Callable[[], Trainer]:
    """Contender `each` in this process, which is its own."""
    as_used(each)
    return contender(each, shape, training_rows(name, steps, data), BATCH)


def as_used(each: str) -> None:
    """What the use of a contender does to its process."""
    if each.startswith(KIT):
        keep_freed_memory()


def training_rows(name: str, steps: int, data: Path | None) -> Work:
    """The rows that all contenders train on."""
    return like_length(work(name, POOL * BATCH, data), steps)


def like_length(pool: Work, steps: int) -> Work:
    """The rows of `steps` updates out of the pool's, batch by batch as Trainer's grouping by length cuts them.

    Batches are taken at even distances from the longest to the shortest. Who does not group draws its batches at random
    from the same rows.
    """
    source = torch.Generator().manual_seed(0)
    order = get_length_grouped_indices(list(map(len, pool.ids)), BATCH, mega_batch_mult=POOL, generator=source)
    chosen = [int((at + 0.5) * POOL / steps) for at in range(steps)]
    random.Random(0).shuffle(chosen)
    rows = [row for batch in chosen for row in order[batch * BATCH : (batch + 1) * BATCH]]
    parts = ([of[row] for row in rows] for of in (pool.texts, pool.ids, pool.labels))
    return Work(pool.name, *parts, pool.max_length)


def training(data: Path | None, quick: bool) -> list[Row]:
    """All cases: everybody on SST-2 lengths; the short list where the rest would take too long."""
    if quick:
        return measure("tiny", "SST-2", {"tiny, SST-2": (KIT, DYNAMIC, FULL, GROUPED, CROSS)}, data, 3, starts=1)
    table = []
    for shape, steps in STEPS.items():
        for name in MAX_LENGTH:
            turns = {f"{shape}, {name}": FEW.get(shape, MAIN)}
            if name == "SST-2":
                turns = {f"{shape}, {name}": MAIN, f"{shape}, {OTHERS}": MORE}
            table += measure(shape, name, turns, data, steps.get(name, ELSEWHERE[shape]))
    return table


def memory(data: Path | None, quick: bool) -> list[Row]:
    """Peak memory of one epoch of each contender, each in a process of its own."""
    names = (KIT, DYNAMIC) if quick else (KIT, KIT_PADDED, DYNAMIC, FULL, CROSS)
    shape = "tiny" if quick else "30M"
    return [_peak(shape, name, data) for name in names]


def _peak(shape: str, name: str, data: Path | None) -> Row:
    command = [sys.executable, "-m", "benchmarks.training", shape, name, *([str(data)] if data else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {name}: {done.stderr.strip().splitlines()[-1]}")
    value = float(done.stdout.split()[-1])
    return Row("memory", f"{shape}, QNLI", name, value=value, unit="MiB at most", note=NOTES.get(name, ""))


def _own_peak(shape: str, name: str, data: str | None = None) -> float:
    """Peak memory of this process, in MiB, after two updates of a contender."""
    as_used(name)
    one_epoch(contender(name, shape, work("QNLI", 2 * BATCH, data), BATCH))
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_memory()
    # on Linux ru_maxrss of a child begins at the size of its parent; the high-water mark of its own memory does not
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(_own_peak(*sys.argv[1:]))
