"""Memory of this process: what the C library does with that of a tensor no longer needed, and the most there was."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
BY_ENVIRONMENT = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"
KEPT = 1 << 30  # bytes
LARGEST = 32 << 20  # bytes; glibc takes no more


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB of freed memory for its next tensors, those of more than 32 MiB left out.

    Memory returned to the system comes back page by page, each cleared first: in training that is all activations and
    gradients, at every step. What glibc keeps by itself depends on earlier frees, and on what happens to lie at the end
    of the heap. Settings in the environment, and other C libraries, are left alone. Source: mallopt(3).
    """
    if sys.platform != "linux" or any(name in os.environ for name in BY_ENVIRONMENT):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, KEPT)


def peak_memory(children: bool = False) -> float:
    """The most memory that this process, or any one of its finished children, has had so far, in MiB."""
    import resource  # which Windows has not

    most = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
