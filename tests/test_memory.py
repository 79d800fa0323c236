"""Freed memory stays in the process: tensors made again and again fault no page in twice."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from gemma_encoder.memory import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()

def layer():
    some = [torch.ones(300_000) for _ in range(30)]

layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc learns what to keep")
def test_memory_that_is_kept_is_not_faulted_in_again():
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, *arguments], text=True))
        for arguments in (["keep"], [])
    )
    assert given_back > 10 * 1000
    assert kept < given_back / 10
