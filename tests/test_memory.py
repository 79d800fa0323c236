"""Freed memory stays in the process: tensors made again and again fault no page in twice."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from gemma_encoder.memory import keep_freed_memory

keep_freed_memory()

def layer():
    some = [torch.ones(300_000) for _ in range(30)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

layer()
before = faults()
for _ in range(10):
    layer()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc learns what to keep")
def test_memory_that_is_kept_is_not_faulted_in_again():
    """Given back, it is 88,000 pages in most processes; some free a large block by chance, so three are asked."""
    faults = [int(subprocess.check_output([sys.executable, "-c", FAULTS], text=True)) for _ in range(3)]
    assert max(faults) < 10_000, "what the heap grows by before it settles is less"
