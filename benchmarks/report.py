"""Results as a Markdown table and as one HTML page with figures: both are written from the same rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.timing import Row, ratios
from gemma_encoder.reports.files import write_whole
from gemma_encoder.reports.html import check_html, page
from gemma_encoder.reports.plots import PALETTE, SHAPES, THEME, png
from gemma_encoder.reports.tables import cell_text, table_html

TITLES = {
    "training": "Fine-tuning throughput",
    "inference": "Inference",
    "anatomy": "Where the time of a step goes",
    "memory": "Peak memory of fine-tuning",
    "scaling": "Scaling and utilisation",
    "tricks": "Every trick, with it and without",
}
ABOUT = {
    "training": "Contenders took turns over the same rows, with the same weights, optimiser and precision, after their "
    "states on real tokens were found equal. The factor is a contender's seconds over those of the first row of its "
    "case: how many times faster that one is. Spread: least and greatest of the rounds.",
    "inference": "Tokenising is part of the time. Outputs were found equal first, but for the contenders with another "
    "head, whose decoder has the same weights.",
    "anatomy": "Forward and backward pass, optimiser, and everything else of a step of Trainer.",
    "memory": "One epoch of two updates in a process of its own; what the libraries take by themselves is in it.",
    "scaling": "Utilisation: the model's arithmetic over the matrix product of this machine, measured in the same run.",
    "tricks": "A factor of without above 1: the trick pays. Below 1: it does not, here.",
}
SPEED = "times the seconds of the first"


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a row: medians, factors against the first row of its case, and throughput."""
    lines = []
    for case, group in groupby(rows, key=lambda row: row.case):
        group = list(group)
        for row in group:
            lines.append({"case": case, "what": row.name} | _numbers(row, group[0]) | {"note": row.note})
    table = pd.DataFrame(lines)
    return table.loc[:, (table != "").any()]


def _numbers(row: Row, first: Row) -> dict[str, str]:
    if not row.seconds:
        return {"value": f"{row.value:.1f} {row.unit}"}
    median = statistics.median(row.seconds)
    numbers = {"median": f"{1000 * median:.1f} ms"}
    if row is not first and row.part != "scaling":
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
    for part, some in by_part(rows).items():
        table = frame(some).fillna("")
        lines += ["", f"## {TITLES[part]}", "", ABOUT[part], "", _line(table.columns), _line("---" for _ in table)]
        lines += [_line(row) for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def _line(cells) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def write_report(rows: Sequence[Row], environment: dict[str, str], path: Path) -> None:
    """The page; RuntimeError if it breaks the rules for reports."""
    facts = "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in environment.items())
    body = [f"<h1>Benchmarks</h1>\n<ul>{facts}</ul>"]
    for part, some in by_part(rows).items():
        picture = factors(some, TITLES[part]) if any(row.seconds for row in some) and part != "scaling" else ""
        picture = scaling_figure(some) if part == "scaling" else picture
        table = table_html(frame(some).map(_dash), TITLES[part])
        body.append(f'<h2>{TITLES[part]}</h2>\n<p>{ABOUT[part]}</p>\n{picture}\n<div class="wide">{table}</div>')
    text = page("Benchmarks", "\n".join(body))
    if problems := check_html(text):
        raise RuntimeError(f"the page breaks the rules for reports: {'; '.join(problems)}")
    write_whole(path, text)


def _dash(cell: object) -> object:
    return None if cell == "" or pd.isna(cell) else cell


def _figure(fig, alt: str) -> str:
    image, width = png(fig, alt)
    return f'<p><img src="data:image/png;base64,{image}" width="{width}" alt="{escape(alt)}"></p>'


def factors(rows: Sequence[Row], title: str) -> str:
    """The factors of a part as dots with the span of their rounds, one line a contender; 1 is the first of a case."""
    points = []
    for case, group in groupby(rows, key=lambda row: row.case):
        first, *others = group
        points += [(case, other.name, *ratios(other.seconds, first.seconds)) for other in others]
    names = list(dict.fromkeys(name for _, name, *_ in points))
    with plt.rc_context(THEME):
        fig, ax = plt.subplots(figsize=(9.5, 1.5 + 0.36 * len(points)))
        for y, (_, name, middle, least, most) in enumerate(points):
            at = names.index(name) % len(PALETTE)
            ax.plot([least, most], [y, y], color=PALETTE[at], linewidth=2.5)
            ax.plot(middle, y, SHAPES[at], color=PALETTE[at], markersize=8)
        ax.axvline(1, color="#57606a", linestyle="--")
        ax.set_yticks(range(len(points)), [f"{case}: {name}" for case, name, *_ in points], fontsize=9)
        ax.set(title=title, xscale="log")
        ax.set_xlabel(f"{SPEED} (median; line: all rounds)", fontsize=11)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}")
        ax.invert_yaxis()
    said = "; ".join(f"{case}, {name}: {middle:.2f}" for case, name, middle, *_ in points)
    return _figure(fig, f"{title}, {SPEED} of each case. {said}.")


def scaling_figure(rows: Sequence[Row]) -> str:
    """Utilisation of every case as bars."""
    shares = [(row.case, row.value) for row in rows if row.name == "utilisation"]
    with plt.rc_context(THEME):
        fig, ax = plt.subplots(figsize=(9.5, 1.5 + 0.36 * len(shares)))
        ax.barh(np.arange(len(shares)), [value for _, value in shares], color=PALETTE[0])
        ax.set_yticks(range(len(shares)), [case for case, _ in shares], fontsize=9)
        ax.set(title=TITLES["scaling"])
        ax.set_xlabel("utilisation (% of the measured matrix product)", fontsize=11)
        ax.invert_yaxis()
    said = "; ".join(f"{case}: {cell_text(value)} %" for case, value in shares)
    return _figure(fig, f"Utilisation of the machine's matrix product by case. {said}.")
