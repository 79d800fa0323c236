"""What the C library does with the memory of a tensor that is no longer needed."""

from __future__ import annotations

import torch

LARGEST = 31 << 20  # bytes; glibc takes no more than 32 MiB for a sign of what is to come


def keep_freed_memory() -> None:
    """Let this process keep up to 62 MiB of freed memory for its next tensors.

    Memory that goes back to the system comes again page by page, each cleared, several times in every layer. glibc
    learns what to keep from the largest block that was freed: blocks of that size stay in the process, and up to twice
    as much of them at the end of the heap. So one is taken and freed, which touches no page. Other C libraries do not
    care. Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    torch.empty(LARGEST, dtype=torch.uint8)
