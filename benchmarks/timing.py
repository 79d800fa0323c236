"""Side by side in one run: contenders take turns, so that whatever slows the machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

import torch

LEAST_ROUNDS = 3
MOST_ROUNDS = 9


@dataclass
class Row:
    """What one contender took in one case: `seconds`, one value a round, for `tokens` real tokens in `examples` rows.

    A row that is not a time has a `value` and its `unit` instead, and where it has rounds `least` and `most`. `note`
    says what differs from the others.
    """

    part: str
    case: str
    name: str
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    examples: int = 0
    value: float | None = None
    least: float | None = None
    most: float | None = None
    unit: str = ""
    note: str = ""


def of_rounds(part: str, case: str, name: str, values: Sequence[float], unit: str) -> Row:
    """A value that every round has: their median, least and most."""
    return Row(part, case, name, value=statistics.median(values), least=min(values), most=max(values), unit=unit)


def clocked(call: Callable[[], object]) -> Callable[[], float]:
    """`call` as something that returns how many seconds it took."""

    def run() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return run


def take_turns(
    contenders: Mapping[str, Callable[[], float]], budget: float, least: int = LEAST_ROUNDS
) -> dict[str, list[float]]:
    """Seconds of every contender, round by round, until `budget` seconds are gone; at least `least` rounds.

    Each returns the seconds it took. One round is run before and not counted, and the order turns with every round:
    nobody always runs in the warm cache of the same neighbour.
    """
    names, taken = list(contenders), {name: [] for name in contenders}
    for name in names:
        contenders[name]()
    start = time.perf_counter()
    for at in range(MOST_ROUNDS):
        for name in names[at % len(names) :] + names[: at % len(names)]:
            taken[name].append(contenders[name]())
        if at + 1 >= least and time.perf_counter() - start > budget:
            break
    return taken


@contextmanager
def own_processes(calls: Mapping[str, Callable[[], float]], preload: str) -> Iterator[dict[str, Callable[[], float]]]:
    """The calls, each in a new process, which waits while others take their turns; `preload`: a module they need.

    They start from a process that has imported this module and done nothing else.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([preload])
    with ExitStack() as stack:
        yield {
            name: partial(_result, stack.enter_context(ProcessPoolExecutor(1, context)), call)
            for name, call in calls.items()
        }


def _result(process: ProcessPoolExecutor, call: Callable[[], float]) -> float:
    return process.submit(call).result()


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and greatest of `seconds / reference`, taken round by round."""
    values = [mine / theirs for mine, theirs in zip(seconds, reference, strict=True)]
    return statistics.median(values), min(values), max(values)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
