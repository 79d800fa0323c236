"""`python -m benchmarks`: the kit against what anybody would use instead, in one run of some ten minutes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.anatomy import anatomy, scaling
from benchmarks.inference import inference
from benchmarks.report import markdown, write_report
from benchmarks.timing import Row
from benchmarks.training import memory, training
from benchmarks.tricks import tricks
from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.paths import ROOT
from gemma_encoder.reports.files import write_whole
from gemma_encoder.reports.index import environment

PARTS: dict[str, Callable[[Path | None, bool], list[Row]]] = {
    "training": training,
    "inference": inference,
    "anatomy": anatomy,
    "scaling": scaling,
    "tricks": tricks,
    "memory": memory,
}
RESULTS = ROOT / "benchmarks" / "results"


def processor() -> str:
    """What the operating system calls the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def facts(data: Path | None, quick: bool, seconds: float) -> dict[str, str]:
    """What a reader of the numbers has to know about the run."""
    return environment() | {
        "processor": f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "load before the run": f"{os.getloadavg()[0]:.1f} processes wanted a core",
        "lengths": "real rows" if data else "lognormal fits, data/lengths.csv",
        "size": "quick: a smoke test, not a measurement" if quick else "full",
        "seconds": f"{seconds:.0f}",
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, write `results.json`, `results.md` and `report.html`; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; all of them if none is named")
    parser.add_argument("--data-dir", type=Path, help="folder of data sets for the lengths of real rows")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, about a minute: does everything run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    try:
        chosen = [check_choice("part", part, PARTS) for part in options.parts] or list(PARTS)
        measure(chosen, options.data_dir, options.quick, options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(chosen: list[str], data: Path | None, quick: bool, out: Path) -> None:
    """Run the parts and write what they found."""
    start, known, rows = time.monotonic(), facts(data, quick, 0), []
    for part in chosen:
        rows += PARTS[part](data, quick)
        print(f"{part}: done after {time.monotonic() - start:.0f} s", file=sys.stderr)
    known["seconds"] = f"{time.monotonic() - start:.0f}"
    write_whole(out / "results.json", json.dumps({"environment": known, "rows": list(map(asdict, rows))}, indent=1))
    write_whole(out / "results.md", markdown(rows, known))
    write_report(rows, known, out / "report.html")


if __name__ == "__main__":
    sys.exit(main())
