"""Tables that screen readers, projectors and printers can follow."""

from __future__ import annotations

from html import escape
from numbers import Integral, Real

import pandas as pd
from IPython.display import display

from gemma_encoder.errors import InputError
from gemma_encoder.reports.published import Published

MISSING = "\N{EN DASH}"
UNKNOWN = str(Published(None))  # what stands in the place of a number of the paper that is not known


def display_table(frame: pd.DataFrame, caption: str, decimals: int = 1, foot: str = "") -> None:
    """Show `frame` with a caption, floats to `decimals` places, and `foot` in a last row over the whole width.

    A named index, or the first column, heads the rows.
    """
    if not caption.strip():
        raise InputError(f"a table needs a caption, received {caption!r}")
    html = table_html(frame, caption, decimals, foot)
    shown = frame.map(lambda cell: cell_text(cell, decimals)).to_string(index=frame.index.name is not None)
    plain = "\n".join(filter(None, (caption, shown, foot)))
    display({"text/html": html, "text/plain": plain}, raw=True)


def table_html(frame: pd.DataFrame, caption: str, decimals: int = 1, foot: str = "") -> str:
    """The HTML of a table: caption, column headers, one row header per row, columns of numbers to the right, a foot."""
    if frame.index.name is not None or isinstance(frame.index, pd.MultiIndex):
        frame = frame.reset_index()
    sides = [_side(frame.iloc[:, at]) for at in range(frame.shape[1])]
    head = "".join(f'<th scope="col"{side}>{escape(str(name))}</th>' for name, side in zip(frame, sides, strict=True))
    rows = "\n".join(
        f"<tr>{''.join(_cell(cell, i == 0, sides[i], decimals) for i, cell in enumerate(row))}</tr>"
        for row in frame.itertuples(index=False)
    )
    last = f'<tfoot><tr><td colspan="{len(frame.columns)}">{escape(foot)}</td></tr></tfoot>\n' if foot else ""
    return (
        f"<table><caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n{last}</table>"
    )


def cell_text(cell: object, decimals: int = 1) -> str:
    """A value as a person reads it; what is missing shows as a dash."""
    if isinstance(cell, Real) and not isinstance(cell, Integral):
        return MISSING if pd.isna(cell) else f"{cell:.{decimals}f}"
    return MISSING if cell is None or cell is pd.NA or cell is pd.NaT else str(cell)


def signed(number: float | None, decimals: int = 1) -> str:
    """A difference that the paper reports, with its sign; where it is not known, the words that say so."""
    return UNKNOWN if number is None else f"{number:+z.{decimals}f}"


def difference(here: float, paper: float | None, decimals: int = 1) -> str:
    """What was measured minus what the paper reports, with its sign; where that is not known, the words that say so."""
    return signed(None if paper is None else here - paper, decimals)


def _side(column: pd.Series) -> str:
    """A column of numbers stands to the right with its heading, any other to the left, in JupyterLab too."""
    known = [cell for cell in column if cell_text(cell) != MISSING]
    numbers = known and all(isinstance(cell, Real) and not isinstance(cell, bool) for cell in known)
    return f' style="text-align: {"right" if numbers else "left"}"'


def _cell(cell: object, first: bool, side: str, decimals: int) -> str:
    tag, scope = ("th", ' scope="row"') if first else ("td", "")
    return f"<{tag}{scope}{side}>{escape(cell_text(cell, decimals))}</{tag}>"
