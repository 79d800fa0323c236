"""Results as a Markdown table and as one HTML page with figures: both are written from the same rows.

`python -m benchmarks.report FOLDER` writes them of what is stored there, wherever it was measured.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.stored import stored
from benchmarks.targets import verdicts
from benchmarks.timing import Row, ratios
from gemma_encoder.errors import InputError
from gemma_encoder.files import write_whole
from gemma_encoder.reports.html import check_html, page
from gemma_encoder.reports.plots import MARKERS, PALETTE, THEME, png
from gemma_encoder.reports.tables import cell_text, table_html

TITLES = {
    "training": "Fine-tuning throughput",
    "inference": "Inference",
    "anatomy": "Where the time of a step goes",
    "memory": "Peak memory of fine-tuning",
    "scaling": "Scaling and utilisation",
    "tricks": "Every trick, with it and without",
    "left out": "Tricks that did not pay",
    "reproduce": "Where the time of make reproduce goes",
    "gpu": "Fine-tuning on a GPU",
    "gpu tried": "Tried for a GPU",
    "gpu attention": "Attention with soft-cap and dropout on a GPU",
    "gpu pretraining": "Pretraining a small decoder on a GPU",
}
ASKED = "What was asked, and what was measured"
ABOUT = {
    "training": "Contenders took turns over the same rows, with the same weights, optimiser and precision, after their "
    "states on real tokens were found equal. Each has processes of its own, as where it is used, started several "
    "times; those of the kit keep freed memory, as its runs do. All read the last token, as transformers' classifier "
    "does; `kit, mean pooling`, the kit's default, has a row. Grouping by length sorts 50 batches at a time, as with "
    "thousands of rows. The factor is a contender's seconds over those of the first row of its case: how many times "
    "faster that one is. Spread: least and greatest of the rounds.",
    "inference": "Tokenising is part of the time. Outputs were found equal first, but for the contenders with another "
    "head, whose decoder has the same weights.",
    "anatomy": "Forward and backward pass, clipping of the gradient, optimiser, and all else of a step of Trainer.",
    "memory": "One epoch of two updates in a process of its own; what the libraries take by themselves is in it.",
    "scaling": "Utilisation: the model's arithmetic over the matrix product of this machine, measured in the same run; "
    "median of the rounds. The last token is read: what the last layer need not compute for the others is not counted.",
    "tricks": "A factor of without above 1: the trick pays. Below 1: it does not, here.",
    "left out": "How many times as fast a step was with the trick when it was tried, in turns in one process on one "
    "thread if nothing else is said. The kit does without them, and they are not measured again.",
    "reproduce": "The tiny profile from an empty folder of runs. Training is part of the notebooks; its seconds are "
    "summed over runs, of which some go on side by side.",
    "gpu": "Random weights in bfloat16, AdamW's states too, and the same batches for every row. A plain loop of "
    "forward pass, backward pass and AdamW; where a row says `by Trainer`, all that Trainer does beside "
    "(collating, clipping, logging every loss) is in it. Tokens are real ones. "
    "Utilisation: arithmetic on them, without what checkpointing does again, over the measured matrix product.",
    "gpu tried": "How many times as fast the packed step of that process was, when it was tried; not measured again.",
    "gpu attention": "One layer, forward and backward. All but the fused kernel have soft-cap and dropout. Difference: "
    "from the formula in float32 with the same pairs dropped; that of the formula in bfloat16 is rounding.",
    "gpu pretraining": "Causal updates of random rows: forward, backward, AdamW; weights and optimiser in float32.",
}
BARS = {  # part: what its bars show, and the unit of the rows that are shown
    "scaling": ("utilisation", "% of the ceiling"),
    "anatomy": ("share", "% of a step"),
    "memory": ("peak memory", "MiB at most"),
    "reproduce": ("time", "s"),
}
SPEED = "times the seconds of the first"
LABEL = 46  # characters in a line of a label beside an axis


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a contender and case: medians, factors against the first row of the case, throughput, and what else.

    A value of a case called `CASE: WHAT` is column WHAT of the line of CASE, where there is one.
    """
    cases, lines = {row.case for row in rows if row.seconds or row.note}, {}
    for case, group in groupby(rows, key=lambda row: row.case):
        of, _, what = case.rpartition(": ")
        group = list(group)
        for row in group:
            beside = row.value is not None and of in cases
            at = of if beside else case
            line = lines.setdefault((at, row.name), {"case": at, "what": row.name})
            numbers = _numbers(row, group[0])
            line |= {what: numbers["value"]} if beside else numbers
            line["note"] = "; ".join(filter(None, [line.get("note"), row.note]))
    table = pd.DataFrame(lines.values())
    return table[[*(name for name in table if name != "note"), "note"]].loc[:, (table.fillna("") != "").any()]


def _numbers(row: Row, first: Row) -> dict[str, str]:
    if not row.seconds and row.value is None:
        return {}  # it failed; the note says why
    if not row.seconds:
        ends = "" if row.least is None else f" ({row.least:.1f} to {row.most:.1f})"
        return {"value": f"{row.value:.{2 if row.value < 10 else 1}f} {row.unit}{ends}"}
    median = statistics.median(row.seconds)
    numbers = {"median": f"{1000 * median:.1f} ms"}
    if row is not first and first.seconds and row.part != "scaling":
        middle, least, most = ratios(row.seconds, first.seconds)
        numbers[SPEED] = f"{middle:.2f} ({least:.2f} to {most:.2f})"
    if row.tokens:
        numbers |= {"tokens/s": f"{row.tokens / median:.0f}", "examples/s": f"{row.examples / median:.1f}"}
    return numbers


def by_part(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each part, in the order of TITLES."""
    found = {part: [row for row in rows if row.part == part] for part in TITLES}
    return {part: some for part, some in found.items() if some}


def markdown(rows: Sequence[Row], environment: dict[str, str]) -> str:
    """All results as Markdown."""
    lines = ["# Benchmarks", "", *(f"* {name}: {value}" for name, value in environment.items())]
    if len(table := verdicts(rows)):
        lines += ["", f"## {ASKED}", "", *_lines(table)]
    for part, some in by_part(rows).items():
        lines += ["", f"## {TITLES[part]}", "", ABOUT[part], "", *_lines(frame(some).fillna(""))]
    return "\n".join(lines) + "\n"


def _lines(table: pd.DataFrame) -> list[str]:
    return [_line(table.columns), _line("---" for _ in table), *map(_line, table.itertuples(index=False))]


def _line(cells) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def write_report(rows: Sequence[Row], environment: dict[str, str], path: Path) -> None:
    """The page; RuntimeError if it breaks the rules for reports."""
    facts = "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in environment.items())
    body = [f"<h1>Benchmarks</h1>\n<ul>{facts}</ul>"]
    if len(asked := verdicts(rows)):
        body.append(f'<h2>{ASKED}</h2>\n<div class="wide">{table_html(asked.map(_dash), ASKED)}</div>')
    for part, some in by_part(rows).items():
        picture = _picture(part, some)
        table = table_html(frame(some).map(_dash), TITLES[part])
        body.append(
            f'<h2>{TITLES[part]}</h2>\n<p>{_prose(ABOUT[part])}</p>\n{picture}\n<div class="wide">{table}</div>'
        )
    text = page("Benchmarks", "\n".join(body))
    if problems := check_html(text):
        raise RuntimeError(f"the page breaks the rules for reports: {'; '.join(problems)}")
    write_whole(path, text)


def _prose(text: str) -> str:
    """As HTML, what stands in backticks as code."""
    return re.sub("`(.+?)`", r"<code>\1</code>", escape(text, quote=False))


def _picture(part: str, rows: Sequence[Row]) -> str:
    if part in BARS:
        return bars(part, rows)
    return factors(rows, TITLES[part]) if any(row.seconds for row in rows) else ""


def _dash(cell: object) -> object:
    return None if cell == "" or pd.isna(cell) else cell


def _figure(fig, alt: str) -> str:
    image, width = png(fig, alt)
    return f'<figure><img src="data:image/png;base64,{image}" width="{width}" alt="{escape(alt)}"></figure>'


def factors(rows: Sequence[Row], title: str) -> str:
    """The factors of a part as dots with the span of their rounds, one line a contender; 1 is the first of a case."""
    points = []
    for case, group in groupby(rows, key=lambda row: row.case):
        first, *others = [row for row in group if row.seconds] or [None]
        points += [(case, other.name, *ratios(other.seconds, first.seconds)) for other in others]
    names = list(dict.fromkeys(name for _, name, *_ in points))
    with plt.rc_context(THEME):
        fig, ax = plt.subplots(figsize=(9.5, 1.5 + 0.4 * len(points)))
        for y, (_, name, middle, least, most) in enumerate(points):
            at = names.index(name) % len(PALETTE)
            ax.plot([least, most], [y, y], color=PALETTE[at], linewidth=2.5)
            ax.plot(middle, y, MARKERS[at], color=PALETTE[at], markersize=8)
        ax.axvline(1, color="#57606a", linestyle="--")
        labels = [fill(f"{case}: {name}", LABEL) for case, name, *_ in points]
        ax.set_yticks(range(len(points)), labels, fontsize=9)
        ax.set(title=title, xscale="log")
        ax.set_xlabel(f"{SPEED} (median; line: all rounds)", fontsize=11)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        low, high = ax.get_xlim()
        crowded = "689" if high > 6 * low else ""  # last digits that leave no room for the others
        ax.xaxis.set_minor_formatter(lambda value, _: "" if f"{value:g}"[-1] in crowded else f"{value:g}")
        ax.invert_yaxis()
    said = "; ".join(f"{case}, {name}: {middle:.2f}" for case, name, middle, *_ in points)
    return _figure(fig, f"{title}, {SPEED} of each case. {said}.")


def bars(part: str, rows: Sequence[Row]) -> str:
    """The values of a part as bars."""
    label, unit = BARS[part]
    values = {f"{row.case}: {row.name}": row.value for row in rows if row.unit == unit}
    with plt.rc_context(THEME):
        fig, ax = plt.subplots(figsize=(9.5, 1.5 + 0.36 * len(values)))
        ax.barh(np.arange(len(values)), list(values.values()), color=PALETTE[0])
        ax.set_yticks(range(len(values)), list(values), fontsize=9)
        ax.set(title=TITLES[part])
        ax.set_xlabel(f"{label} ({unit})", fontsize=11)
        ax.invert_yaxis()
    said = "; ".join(f"{name}: {cell_text(value)} {unit}" for name, value in values.items())
    return _figure(fig, f"{TITLES[part]}. {said}.")


def render(out: Path) -> None:
    """Write table and page of the results stored in `out`."""
    rows, said = stored(out)
    write_whole(out / "results.csv", frame(rows).to_csv(index=False))
    write_whole(out / "results.md", markdown(rows, said))
    write_report(rows, said, out / "report.html")


if __name__ == "__main__":
    try:
        render(Path(sys.argv[1]))
    except InputError as error:
        sys.exit(f"error: {error}")
