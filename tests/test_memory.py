"""Freed memory stays in the process: tensors made again and again fault no page in twice; peaks are in MiB."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from gemma_encoder.memory import peak_memory

FAULTS = """
import random, resource, torch
from gemma_encoder.memory import keep_freed_memory

keep_freed_memory()
random.seed(0)

def layers():
    some = [torch.ones(random.randrange(2_000_000)) for _ in range(100)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(10):  # until the heap has grown and settled
    layers()
before = faults()
for _ in range(10):
    layers()
print(faults() - before)
"""


def faults(**environment: str) -> int:
    command = [sys.executable, "-c", FAULTS]
    return int(subprocess.check_output(command, text=True, env=os.environ | environment))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_memory_that_is_kept_is_not_faulted_in_again():
    """Given back, it is over a million pages; what somebody sets in the environment stays."""
    assert faults() < 10_000
    assert faults(MALLOC_TRIM_THRESHOLD_="0") > 100_000


def test_a_peak_is_in_mebibytes(monkeypatch):
    before = peak_memory()
    torch.ones(int(before) + 200, 2**18)  # a MiB a row: more than this process ever had
    assert before + 150 < peak_memory() < 3 * before + 600
    found = peak_memory()
    monkeypatch.setattr(sys, "platform", "darwin")  # where the system counts bytes
    assert peak_memory() * 2**10 == found
