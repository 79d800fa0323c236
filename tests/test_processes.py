"""No process of a pool outlives the one that started it."""

import subprocess
import sys

import pytest

KILLED = """
import os, signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from {module} import {prepare}

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), {prepare}, {arguments!r})
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
POOLS = [
    ("gemma_encoder.experiments.sweep", "_prepare", ()),
    ("gemma_encoder.reports.runner", "_prepare_lane", (1, ".")),
]


@pytest.mark.parametrize(("module", "prepare", "arguments"), POOLS)
def test_a_process_of_a_pool_ends_when_its_parent_is_killed(tmp_path, module, prepare, arguments):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(module=module, prepare=prepare, arguments=arguments))
    # the output ends with the last process that holds it
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9
    assert int(done.stdout) > 0
