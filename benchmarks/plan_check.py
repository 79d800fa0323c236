"""How far the estimates of `gemma-encoder plan` are from real runs on this machine, on one thread.

    python -m benchmarks.plan_check

Two models: the tiny decoder in a run of its profile, and one of random weights in the shape of ettin-decoder-32m with
the tiny tokenizer. Every estimate and every run is a process of its own, in turns, so that other work on the machine
slows both alike.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import torch
from transformers import AutoModelForCausalLM

from gemma_encoder.experiments.pace import pace
from gemma_encoder.experiments.plan import estimate
from gemma_encoder.experiments.run import train
from gemma_encoder.experiments.shapes import config_of, shape_of
from gemma_encoder.experiments.sizes import work_of
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.loading import load_tokenizer
from gemma_encoder.paths import ROOT

SHAPE = "jhu-clsp/ettin-decoder-32m"
TURNS = 3
EXACT = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}  # glibc gives freed tensors back at once
WITHIN = 0.25  # how far an estimate may be from its run


def estimated(spec: RunSpec) -> dict[str, float]:
    """Seconds and bytes of a fine-tuning, as `plan` says them."""
    work, shape = work_of(spec), shape_of(spec.model)
    return {"s": pace(spec, work).seconds(spec, work, shape), "MB": estimate(spec, shape, work).memory / 1e6}


def seconds(spec: RunSpec) -> dict[str, float]:
    """Of a fine-tuning, from reading its rows on."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    _run(spec)
    return {"s": time.perf_counter() - start}


def megabytes(spec: RunSpec) -> dict[str, float]:
    """That a fine-tuning adds to a process in which one has loaded its libraries and filled its caches."""
    _run(spec)
    gc.collect()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    _run(spec)
    return {"MB": _memory("VmHWM") - before}


def _run(spec: RunSpec) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train(spec, Path(folder))


def _memory(what: str) -> float:
    """MB of this process: VmRSS now, VmHWM at the peak. (ru_maxrss begins at that of the process that started it.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024 / 1e6


def random_decoder(folder: str) -> None:
    """A checkpoint of the shape, weights random."""
    AutoModelForCausalLM.from_config(config_of(SHAPE)).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)


def in_turns(spec: RunSpec) -> dict[str, list[dict[str, float]]]:
    """What `TURNS` estimates and as many runs found, one after the other."""
    found = {"estimated": [], "measured": []}
    for _ in range(TURNS):
        found["estimated"].append(_ask("estimated", spec))
        found["measured"].append(_ask("seconds", spec) | _ask("megabytes", spec, EXACT))
    return found


def _ask(what: str, spec: RunSpec, setting: Mapping[str, str] = MappingProxyType({})) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.plan_check", what, json.dumps(asdict(spec))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, **setting})
    return json.loads(done.stdout.splitlines()[-1])


def verdict(name: str, found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """A line for seconds and one for bytes: how far the least estimate is from the least measurement, and each turn.

    The least, because other work on the machine only adds.
    """
    lines = []
    for unit in ("s", "MB"):
        sides = {what: [row[unit] for row in rows] for what, rows in found.items()}
        off = min(sides["estimated"]) / min(sides["measured"]) - 1
        each = "; ".join(f"{what} {', '.join(f'{value:.1f}' for value in values)}" for what, values in sides.items())
        within = "within" if abs(off) <= WITHIN else "NOT within"
        lines.append(f"{name}, {unit}: {off:+.0%}, {within} {WITHIN:.0%} ({each})")
    return lines


def main() -> None:
    """Both models; the exit code is 1 where an estimate is too far from its runs."""
    tiny = RunSpec(task="cola", train_examples=1200)
    with tempfile.TemporaryDirectory() as folder:
        random_decoder(folder)
        cases = {"tiny": tiny, "30M": RunSpec(task="rte", model=folder, train_examples=128, epochs=1)}
        lines = [line for name, spec in cases.items() for line in verdict(name, in_turns(spec))]
    print("\n".join(lines))
    sys.exit(any("NOT" in line for line in lines))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        answer = {"estimated": estimated, "seconds": seconds, "megabytes": megabytes}[sys.argv[1]]
        print(json.dumps(answer(RunSpec(**json.loads(sys.argv[2])))))
    else:
        main()
