"""The outcome of a notebook, shown to its reader and carried along for the index page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from IPython.display import display

from gemma_encoder.errors import check_choice
from gemma_encoder.reports.statistics import VERDICTS

if TYPE_CHECKING:  # nbformat takes seconds to import, in every kernel that shows a verdict
    from nbformat import NotebookNode

MIME = "application/vnd.gemma-encoder.verdict+json"
# A sign and a word each, so that colour carries nothing alone; the colours read on white and on black.
SIGNS = dict(zip(VERDICTS, ("✓", "✗", "?"), strict=True))
COLOURS = dict(zip(VERDICTS, ("#2a9d4a", "#d1495b", "#c58b00"), strict=True))


def display_verdict(claim: str, verdict: str, evidence: str, numbers: Mapping[str, float]) -> None:
    """Show `claim` with its verdict and the evidence in words; `numbers` travel with it, rounded to 4 decimals."""
    check_choice("verdict", verdict, VERDICTS)
    data = {"claim": claim, "verdict": verdict, "evidence": evidence, "numbers": _plain(numbers)}
    display(
        {"text/html": verdict_html(data), "text/plain": f"{verdict}: {claim}\n{evidence}", MIME: data},
        raw=True,
    )


def verdict_html(data: Mapping[str, str]) -> str:
    """One verdict as a block of HTML."""
    kind = data["verdict"]
    return (
        f'<div class="verdict" style="border-left: .3rem solid {COLOURS[kind]}; padding-left: 1rem">'
        f"<p><strong>{SIGNS[kind]} {kind}</strong>: {escape(data['claim'])}</p><p>{escape(data['evidence'])}</p></div>"
    )


def verdicts(notebook: NotebookNode) -> list[dict]:
    """Every verdict that an executed notebook displayed, in order."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return [dict(output["data"][MIME]) for output in outputs if MIME in output.get("data", {})]


def _plain(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: an undefined number becomes null."""
    return {name: round(float(x), 4) if math.isfinite(x) else None for name, x in numbers.items()}
