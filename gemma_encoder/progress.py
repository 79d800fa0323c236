"""How far along a long job is: a bar in a terminal, one updated line in a notebook, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
LINE_EVERY_S = 10.0


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _lines(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    start = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done == total or now - said >= LINE_EVERY_S:
            said = now
            print(f"{label}: {done} of {total} after {now - start:.0f} s", file=sys.stderr, flush=True)


def _display(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    from IPython.display import Pretty, display

    start = time.monotonic()
    handle = display(Pretty(f"{label}: 0 of {total}"), display_id=True)
    for done, item in enumerate(items, start=1):
        yield item
        handle.update(Pretty(f"{label}: {done} of {total} after {time.monotonic() - start:.0f} s"))


def progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Pass `items` through and show how many of `total` have come."""
    if _in_notebook():
        return _display(items, total, label)
    if sys.stderr.isatty():
        return iter(tqdm(items, total=total, desc=label, file=sys.stderr))
    return _lines(items, total, label)
