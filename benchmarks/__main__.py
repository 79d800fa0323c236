"""`python -m benchmarks`: the kit against the usual alternatives, in one run of some forty minutes.

Each part is saved as soon as it is measured: after an interruption, name the missing parts. Parts of an earlier run
stay if they were measured in the same environment. `reproduce` takes several minutes more and runs only when named.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.anatomy import anatomy, scaling
from benchmarks.inference import inference
from benchmarks.report import render
from benchmarks.reproduce import reproduce
from benchmarks.stored import RESULTS, store
from benchmarks.timing import Row
from benchmarks.training import memory, training
from benchmarks.tricks import tricks
from benchmarks.workload import lacking
from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.memory import keep_freed_memory
from gemma_encoder.reports.index import environment

PARTS: dict[str, Callable[[Path | None, bool], list[Row]]] = {
    "training": training,
    "inference": inference,
    "anatomy": anatomy,
    "scaling": scaling,
    "tricks": tricks,
    "memory": memory,
    "reproduce": reproduce,
}
BY_NAME = ("reproduce",)  # left out unless it is named


def processor() -> str:
    """What the operating system calls the processor; vendors give one name to several families."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    if "model name" not in known:
        return platform.machine()
    return f"{known['model name']}, family {known.get('cpu family')}, model {known.get('model')}"


def facts(data: Path | None, quick: bool) -> dict[str, str]:
    """What a reader of the numbers has to know about the run; parts measured where these differ do not mix."""
    return environment() | {
        "processor": f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "lengths": _lengths(data),
        "size": "quick: a smoke test, not a measurement" if quick else "full",
    }


def _lengths(data: Path | None) -> str:
    fits = "lognormal fits, data/lengths.csv"
    if data is None:
        return fits
    return "real rows" + "".join(f"; {name}: {fits}" for name in lacking(data))


def main(arguments: list[str] | None = None) -> int:
    """Measure, write `results.json`, `.csv`, `.md` and `report.html`; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; if none is named, all but the last")
    parser.add_argument("--data-dir", type=Path, help="folder of data sets: lengths of its real rows")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, about a minute: does everything run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    try:
        chosen = [check_choice("part", part, PARTS) for part in options.parts] or [
            part for part in PARTS if part not in BY_NAME
        ]
        measure(chosen, options.data_dir, options.quick, options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {options.out.name}", file=sys.stderr)
        return 130
    return 0


def measure(chosen: list[str], data: Path | None, quick: bool, out: Path) -> None:
    """Run the parts, and write what is known after each of them."""
    known = facts(data, quick)
    keep_freed_memory()  # as a run of the kit does; contenders of inference share this process
    for part in chosen:
        load, start = os.getloadavg()[0], time.monotonic()
        rows = PARTS[part](data, quick)
        seconds = time.monotonic() - start
        print(f"{part}: {seconds:.0f} s", file=sys.stderr)
        keep(part, f"{seconds:.0f} s; load of the minute before, own parts included, {load:.1f}", rows, known, out)


def keep(part: str, how: str, rows: list[Row], known: dict[str, str], out: Path) -> None:
    """Store the rows of a part, and write table and page anew."""
    store(part, how, rows, known, out)
    render(out)


if __name__ == "__main__":
    sys.exit(main())
