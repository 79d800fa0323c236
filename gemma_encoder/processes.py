"""No process of a pool outlives the one that started it."""

from __future__ import annotations

import os
from multiprocessing import parent_process
from threading import Thread


def end_with_parent() -> None:
    """Let this process of a pool end at once when the one that started it is gone, killed or not.

    By itself it would wait for work forever, with all the memory that it has.
    """
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)
