"""How far the estimates of `gemma-encoder plan` are from real runs on this machine, on one thread.

    python benchmarks/plan_check.py

Two models: the tiny decoder, and one of random weights in the shape of ettin-decoder-32m with the tiny tokenizer. The
ceiling is the speed of a matrix product of the model's own sizes, measured beside the run.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gemma_encoder.experiments.plan import UTILISATION, estimate, rows_and_tokens
from gemma_encoder.experiments.run import train
from gemma_encoder.experiments.shapes import SHAPES, shape_of
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.loading import load_tokenizer

SECONDS = 3.0  # of matrix products


def ceiling(rows: int, width: int, ffn: int) -> float:
    """FLOPs a second of `(rows, width) @ (width, ffn)` in float32."""
    left, right = torch.randn(rows, width), torch.randn(width, ffn)
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < SECONDS:
        left @ right
        done += 1
    return 2 * rows * width * ffn * done / spent


def measure(settings: dict[str, object]) -> dict[str, float]:
    """Seconds and bytes of a fine-tuning in this process, and the ceiling measured before it."""
    torch.set_num_threads(1)
    spec = RunSpec(**settings)
    shape, (_, _, length) = shape_of(spec.model), rows_and_tokens(spec)
    rate = ceiling(round(spec.batch_size * length), shape.width, shape.ffn)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as folder:
        result, _ = train(spec, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": result.timing["train_seconds"], "bytes": peak - before, "rate": rate}


def random_decoder(folder: str) -> None:
    """A checkpoint in the shape of ettin-decoder-32m, weights random."""
    shape = SHAPES["jhu-clsp/ettin-decoder-32m"]
    sizes = {"num_hidden_layers": shape.layers, "hidden_size": shape.width, "intermediate_size": shape.ffn}
    heads = {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim}
    config = AutoConfig.for_model("gemma2", vocab_size=shape.vocab, **sizes, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)


def report(name: str, spec: RunSpec) -> None:
    command = [sys.executable, __file__, json.dumps(asdict(spec))]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    planned = estimate(spec)
    seconds = planned.flops / found["rate"] / UTILISATION
    print(f"{name}: ceiling {found['rate'] / 1e9:.1f} GFLOP/s, of which {UTILISATION:.0%} is assumed")
    for what, guess, real in (("s", seconds, found["seconds"]), ("MB", planned.memory / 1e6, found["bytes"] / 1e6)):
        print(f"  estimated {guess:.1f} {what}, measured {real:.1f} {what}: {guess / real - 1:+.0%}")


def main() -> None:
    report("tiny", RunSpec(task="rte", train_examples=256, epochs=1))
    with tempfile.TemporaryDirectory() as folder:
        random_decoder(folder)
        report("30M", RunSpec(task="rte", model=folder, train_examples=64, epochs=1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    else:
        main()
