"""Fine-tuning steps of Gemma 2's shapes with random weights on one GPU, in bfloat16.

    python -m benchmarks.gpu --shape 2b                              # full fine-tuning, attention, pretraining
    python -m benchmarks.gpu fine-tuning --shape 9b --lora 16        # LoRA on a frozen decoder, nothing else
    python -m benchmarks.gpu --shape tiny --out DIR                  # anywhere: does the script run to its end?
    python -m benchmarks.report DIR                                  # afterwards, anywhere: table and page

Every row is one configuration: packed or padded, with and without gradient checkpointing and torch.compile, and
transformers' own classifier with dynamic padding, with FlashAttention 2 where it is installed; by a plain loop, and by
Trainer (see gpu_trainer). Then attention alone (see gpu_attention) and the pretraining of a small decoder (see
gpu_pretraining). A configuration that does not fit is a row that says so. Every row is on disk as soon as it is
measured, and nothing begins after `--seconds`. Little is imported beside torch and transformers. Without a GPU the
times are those of the processor, and the result says that no GPU was measured.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import Gemma2Config, Gemma2ForSequenceClassification, PreTrainedModel

from benchmarks.gpu_attention import attention, why
from benchmarks.gpu_pretraining import pretraining
from benchmarks.gpu_trainer import by_trainer
from benchmarks.stored import RESULTS, store
from benchmarks.timing import Row, of_rounds, wait
from benchmarks.workload import MAX_LENGTH, sample
from gemma_encoder import GemmaEncoderForSequenceClassification
from gemma_encoder.compiled import GRAPHS, compile_layers
from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.experiments import shapes
from gemma_encoder.experiments.shapes import Shape
from gemma_encoder.families import layers
from gemma_encoder.lora import add_lora
from gemma_encoder.rows import padded

SHAPES = {
    "tiny": Shape(layers=4, width=64, heads=4, kv_heads=2, head_dim=16, ffn=128, vocab=512),
    "2b": shapes.SHAPES["google/gemma-2-2b"],
    "9b": shapes.SHAPES["google/gemma-2-9b"],
}
PACKED, UPSTREAM = "kit, packed", "transformers, dynamic padding"
COMPILED, UPSTREAM_COMPILED = f"{PACKED}, layers compiled", f"{UPSTREAM}, layers compiled"
BY_TRAINER = ", by Trainer"


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    name: str
    upstream: bool = False
    unpadded: bool = True
    checkpointing: bool = False
    compiled: bool = False
    flash: bool = False  # transformers' FlashAttention 2, which refuses a soft-cap together with dropout
    trainer: bool = False  # by Trainer, not by the plain loop


SETTINGS = (  # what is asked first comes first; what compiles takes longest, and comes last
    Setting(PACKED),
    Setting(UPSTREAM, upstream=True),
    Setting(f"{PACKED}, checkpointing", checkpointing=True),
    Setting(f"{UPSTREAM}, checkpointing", upstream=True, checkpointing=True),
    Setting("kit, padded", unpadded=False),
    Setting("kit, padded, checkpointing", unpadded=False, checkpointing=True),
    Setting(f"{UPSTREAM}, FlashAttention 2 without attention dropout", upstream=True, flash=True),
    Setting(f"{PACKED}{BY_TRAINER}", trainer=True),
    Setting(f"{UPSTREAM}{BY_TRAINER}", upstream=True, trainer=True),
    Setting(COMPILED, compiled=True),
    Setting(f"{COMPILED}{BY_TRAINER}", compiled=True, trainer=True),
    Setting(UPSTREAM_COMPILED, upstream=True, compiled=True),
    Setting(f"{UPSTREAM_COMPILED}{BY_TRAINER}", upstream=True, compiled=True, trainer=True),
    Setting(f"{COMPILED}, checkpointing", checkpointing=True, compiled=True),
)


def build(setting: Setting, shape: str, rank: int, device: torch.device) -> PreTrainedModel:
    """A classifier of random weights in bfloat16, ready to train."""
    torch.manual_seed(0)
    # transformers' loss writes the kind of problem into the configuration, and what is compiled compiles again for it
    kind = "single_label_classification"
    config = Gemma2Config(
        **shapes.sizes_of(SHAPES[shape]), num_labels=2, problem_type=kind, use_cache=False, pad_token_id=0
    )
    config.is_causal, config.attention_dropout = False, 0.0 if setting.flash else 0.1
    config.use_bidirectional_attention = setting.flash  # what that kernel asks; masks ask the line above
    kernel = "flash_attention_2" if setting.flash else "eager"
    with torch.device(device):
        model = Gemma2ForSequenceClassification._from_config(config, attn_implementation=kernel, dtype=torch.bfloat16)
    decoder = model.base_model  # which the kit takes over, and LoRA leaves in place
    if not setting.upstream:
        settings = {"dtype": torch.bfloat16, "unpadded": setting.unpadded, "ffn_dropout": 0.0, "num_labels": 2}
        model = GemmaEncoderForSequenceClassification.from_decoder(decoder, **settings).to(device)
    if setting.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if rank:
        model = with_lora(model, rank, setting.upstream)
    if setting.compiled and not setting.upstream:
        compile_layers(model)
    elif setting.compiled:
        for layer in layers(decoder):
            layer.compile(dynamic=True, recompile_limit=GRAPHS)
    return model.train()


def with_lora(model: PreTrainedModel, rank: int, upstream: bool) -> PreTrainedModel:
    """LoRA on every linear layer of the decoder, the head trained whole; the same matrices on both sides."""
    if not upstream:
        return add_lora(model, rank)
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", modules_to_save=["score"]))


def batches(task: str, size: int, count: int, vocabulary: int, data: Path | None) -> list[dict[str, torch.Tensor]]:
    """`count` batches of random tokens with the lengths of a task."""
    lengths, source = sample(task, size * count, data), torch.Generator().manual_seed(0)
    rows = [torch.randint(3, vocabulary, (length,), generator=source).tolist() for length in lengths]
    labels = torch.arange(size) % 2
    return [padded(rows[at : at + size]) | {"labels": labels} for at in range(0, len(rows) - size + 1, size)]


def matmul_rate(device: torch.device, side: int) -> float:
    """Operations a second of the bfloat16 matrix product of that side."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        left @ right
        wait(device)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def steps(model: PreTrainedModel, rows: list[dict[str, torch.Tensor]], device: torch.device) -> Iterator[float]:
    """Seconds of each update: forward, backward, AdamW."""
    optimiser = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-6, fused=True)
    for batch in rows:
        wait(device)
        start = time.perf_counter()
        model(**{name: value.to(device) for name, value in batch.items()}).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        wait(device)
        yield time.perf_counter() - start


def timed(model: PreTrainedModel, rows: list[dict[str, torch.Tensor]], device: torch.device) -> list[float]:
    """Seconds of an update on every batch, after one that is not counted: what is compiled compiles in it."""
    for _ in steps(model, rows, device):
        pass
    return list(steps(model, rows, device))


def case_of(options: argparse.Namespace) -> str:
    """What is fine-tuned, on what."""
    case = f"{options.shape}, {options.task}, {options.batch} rows"
    return f"{case}, LoRA {options.lora}" if options.lora else case


def measure(
    setting: Setting, options: argparse.Namespace, rows: list[dict], device: torch.device, top: float
) -> list[Row]:
    """Seconds of the updates of a setting, utilisation of the measured rate, peak memory; or why there are none."""
    case = case_of(options)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        take = by_trainer if setting.trainer else timed
        seconds = take(build(setting, options.shape, options.lora, device), rows, device)
    except Exception as error:  # out of memory, or what a compiler cannot do: the other rows go on
        return [Row("gpu", case, setting.name, note=why(error))]
    finally:
        torch.compiler.reset()  # its caches hold graphs of a model that is gone, and count against those of the next
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
    counted = [batch["attention_mask"].sum(dim=1).tolist() for batch in rows]
    tokens = round(sum(map(sum, counted)) / len(counted))
    pairs = zip(counted, seconds, strict=True)
    shares = [
        100 * SHAPES[options.shape].training(lengths, frozen=bool(options.lora)) / took / top for lengths, took in pairs
    ]
    table = [
        Row("gpu", case, setting.name, seconds, tokens, options.batch),
        of_rounds("gpu", f"{case}: utilisation", setting.name, shares, "%"),
    ]
    if gpu:
        peak = torch.cuda.max_memory_allocated() / 2**30
        table.append(Row("gpu", f"{case}: memory", setting.name, value=peak, unit="GiB"))
    return table


def tuning(options: argparse.Namespace, device: torch.device) -> Iterator[list[Row]]:
    """Every setting of this shape on this task, the rows of each together."""
    rows = batches(options.task, options.batch, options.updates, SHAPES[options.shape].vocab, options.data_dir)
    top = matmul_rate(device, 8192 if device.type == "cuda" else 256)
    yield [Row("gpu", "matrix product", f"beside {case_of(options)}", value=top / 1e12, unit="TFLOP/s")]
    for setting in SETTINGS:
        yield measure(setting, options, rows, device, top)


PARTS: dict[str, Callable[[argparse.Namespace, torch.device], Iterator[list[Row]]]] = {
    "fine-tuning": tuning,
    "attention": lambda options, device: attention(device),
    "pretraining": lambda options, device: pretraining(device),
}


def facts(options: argparse.Namespace, device: torch.device) -> dict[str, str]:
    """What a reader of the numbers has to know; parts measured where these differ do not mix."""
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "none; no GPU figure has been measured"
    known = {"python": platform.python_version(), "CUDA": str(torch.version.cuda), "GPU": gpu}
    flash = ["flash_attn"] if find_spec("flash_attn") else []
    known |= {package: version(package) for package in ("torch", "transformers", "peft", *flash)}
    return known | {"lengths": "real rows" if options.data_dir else "lognormal fits, data/lengths.csv"}


def main(arguments: list[str] | None = None) -> int:
    """Measure part after part, and store every row in `results.json` of `--out` at once."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; if none is named, all")
    parser.add_argument("--shape", choices=SHAPES, default="2b")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="train LoRA matrices only")
    parser.add_argument("--task", choices=MAX_LENGTH, default="BoolQ", help="whose lengths the rows have")
    parser.add_argument("--batch", type=int, default=32, help="rows of an update")
    parser.add_argument("--updates", type=int, default=8, help="counted updates")
    parser.add_argument("--seconds", type=float, default=540, help="nothing more is begun after so many")
    parser.add_argument("--data-dir", type=Path, help="folder of data sets for the lengths of real rows")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu", help="folder for the results")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = [check_choice("part", part, PARTS) for part in options.parts] or list(PARTS)
        if device.type == "cpu" and options.shape != "tiny":
            raise InputError(f"shape {options.shape!r} without a GPU; valid without one: 'tiny'")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    known = facts(options, device)
    for part in chosen:
        name, rows = case_of(options) if part == "fine-tuning" else part, []
        for found in PARTS[part](options, device):
            rows += found
            seconds = time.monotonic() - start
            store(f"gpu {name}", "one process", by_case(rows), known, options.out)
            for row in found:
                print(f"{seconds:.0f} s: {line(row)}", file=sys.stderr, flush=True)
            if seconds > options.seconds:
                print(f"{options.seconds:.0f} s are over; what was measured is in {options.out.name}", file=sys.stderr)
                return 0
    return 0


def by_case(rows: list[Row]) -> list[Row]:
    """The rows with those of one case side by side: a table has factors of the first row among neighbours."""
    cases = [row.case for row in rows]
    return sorted(rows, key=lambda row: cases.index(row.case))


def line(row: Row) -> str:
    """A row as one line, for whoever watches."""
    found = f"{statistics.median(row.seconds):.4f} s" if row.seconds else f"{row.value} {row.unit}"
    return f"{row.case}: {row.name}: {row.note or found}"


if __name__ == "__main__":
    sys.exit(main())
