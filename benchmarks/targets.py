"""What was asked of the kit's speed, and whether the rows of a run reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from benchmarks.contenders import DYNAMIC, FULL, GROUPED, KIT, OTHERS
from benchmarks.gpu import BY_TRAINER, COMPILED, PACKED, UPSTREAM
from benchmarks.timing import Row, ratios

GPU_CASE = "2b, BoolQ, 32 rows"


@dataclass(frozen=True)
class Target:
    """A bound on one number: a row's value, or its seconds over those of another row of its case.

    than: the name of that row; none: the first.
    """

    what: str
    part: str
    case: str
    name: str
    bound: float
    least: bool = True
    than: str = ""


TARGETS = [
    *(
        Target(f"{shape}: fine-tuning, times as fast as {name}", "training", f"{shape}, {case}", name, bound)
        for shape in ("tiny", "30M")
        for name, case, bound in ((DYNAMIC, "SST-2", 1.8), (GROUPED, "SST-2", 1.2), (FULL, OTHERS, 4.0))
    ),
    *(
        Target(
            f"{shape}: predict, times as fast as pipeline",
            "inference",
            f"{shape}, predict, SST-2",
            "pipeline (another head)",
            2.5,
        )
        for shape in ("tiny", "30M")
    ),
    *(
        Target(
            f"{shape}: outside of forward, backward, clipping and optimiser, % of a step",
            "anatomy",
            f"{shape}, SST-2, {KIT}",
            "everything else",
            bound,
            least=False,
        )
        for shape, bound in (("tiny", 10), ("30M", 2))
    ),
    Target("30M: utilisation, % of the matrix product", "scaling", "30M, SST-2 lengths", "utilisation", 60),
    *(
        target
        for name, how in ((PACKED, ""), (COMPILED, ", layers compiled"))
        for target in (
            Target(f"2b on a GPU{how}: times as fast as dynamic padding", "gpu", GPU_CASE, UPSTREAM, 2, than=name),
            Target(f"2b on a GPU{how}: utilisation, %", "gpu", f"{GPU_CASE}: utilisation", name, 45),
        )
    ),
    Target(
        "2b on a GPU, layers compiled, both by Trainer: times as fast as dynamic padding",
        "gpu",
        GPU_CASE,
        f"{UPSTREAM}{BY_TRAINER}",
        2,
        than=f"{COMPILED}{BY_TRAINER}",
    ),
]


def measured(target: Target, rows: Sequence[Row]) -> tuple[float, float, float] | None:
    """The number that a target is about, the least and the most of its rounds; None where it was not measured."""
    case = {row.name: row for row in rows if (row.part, row.case) == (target.part, target.case)}
    row, reference = case.get(target.name), case.get(target.than or next(iter(case), ""))
    if row is None:
        return None
    if row.value is not None:
        return row.value, *(row.value if end is None else end for end in (row.least, row.most))
    return ratios(row.seconds, reference.seconds) if reference and row.seconds and reference.seconds else None


def verdict(target: Target, value: float, worst: float) -> str:
    """Whether the target is reached in every round, in the median alone, or not."""
    median, every = ((x >= target.bound if target.least else x < target.bound) for x in (value, worst))
    return "reached" if every else "reached in the median" if median else "missed"


def verdicts(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a target that was measured: asked, measured, and the verdict."""
    lines = []
    for target in TARGETS:
        if found := measured(target, rows):
            value, least, most = found
            lines.append(
                {
                    "target": target.what,
                    "asked": f"{'at least' if target.least else 'below'} {target.bound:g}",
                    "measured": f"{value:.2f}",
                    "rounds": f"{least:.2f} to {most:.2f}" if least < most else "",
                    "verdict": verdict(target, value, least if target.least else most),
                }
            )
    return pd.DataFrame(lines)
