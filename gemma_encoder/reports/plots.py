"""Figures in one style: they read on a projector, without colour vision, and (light ground, alt text) on any page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from gemma_encoder.errors import InputError
from gemma_encoder.reports.statistics import summary

PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#7a6a00",
    "#56b4e9",
)  # Okabe and Ito, its yellow darkened
MARKERS = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "P",
)  # a shape with each colour, for those who cannot tell the colours apart
PAPER, FRAME, GROUND = "#1c2128", "#8a929c", "#eceff3"
SCREEN_DPI, DPI = 96, 144
COLOURS = 128
MIN_ALT = 40
NOTE = {  # a number beside its mark
    "textcoords": "offset points",
    "ha": "center",
    "fontsize": 11,
    "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
}
MAX_TICKS = 32
THEME = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("notebook", font_scale=1.2),
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.edgecolor": FRAME,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": ["sans-serif"],
    "grid.color": "#e3e6ea",
}


def use_theme() -> None:
    """Give the figures that a notebook draws itself the style of those drawn here."""
    plt.rcParams.update(THEME)


def show(fig: Figure, alt: str) -> None:
    """Display `fig` as PNG with `alt` as its description for those who do not see it, and close it."""
    image, width = png(fig, alt)
    data = {"image/png": image, "text/plain": f"[figure: {alt}]"}
    display(data, raw=True, metadata={"image/png": {"alt": alt, "width": width}})


def png(fig: Figure, alt: str) -> tuple[str, int]:
    """`fig` as a PNG in base64, and its width on a screen in pixels; closes it. A short `alt` is an InputError."""
    if len(alt.strip()) < MIN_ALT:
        raise InputError(f"alt text says what a figure shows in at least {MIN_ALT} characters, received {alt!r}")
    drawn, file = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=DPI, facecolor="white")
    # a few dozen colours are all that a plot has: a palette makes the file a third as large
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(file, format="png", optimize=True)
    width = round(fig.get_figwidth() * SCREEN_DPI)
    plt.close(fig)
    return base64.b64encode(file.getvalue()).decode("ascii"), width


def means_with_intervals(
    frame: pd.DataFrame,
    by: str = "variant",
    value: str = "score",
    colour: str | None = None,
    published: Mapping[str | tuple[str, str], float | None] | None = None,
    label: str = "score (points)",
) -> Figure:
    """Means with 95 % t-intervals over seeds, one row of the figure per `by`, one colour and shape per `colour`.

    `frame` has one row per run; each run is a small dot. `published` maps a level of `by` (with `colour`: a pair of
    levels) to the paper's value in the same unit, drawn as a labelled hollow diamond; None draws nothing.
    """
    rows = list(dict.fromkeys(frame[by]))
    groups = list(dict.fromkeys(frame[colour])) if colour else [""]
    if len(groups) > len(PALETTE):
        raise InputError(f"a figure tells {len(PALETTE)} colours apart, received {len(groups)}: {groups}")
    paper = {key: x for key, x in (published or {}).items() if x is not None}
    with plt.rc_context(THEME):
        fig, ax = plt.subplots(figsize=(8.3, 1.6 + 0.62 * len(rows) * max(1, 0.7 * len(groups))))
        for (i, row), (j, group) in product(enumerate(rows), enumerate(groups)):
            y = i + (j - (len(groups) - 1) / 2) * 0.7 / len(groups)
            chosen = frame[frame[by] == row]
            chosen = chosen[chosen[colour] == group] if colour else chosen
            if len(chosen):
                _interval(ax, chosen[value].to_numpy(float), y, j)
            if (key := (row, group) if colour else row) in paper:
                _published(ax, paper[key], y)
        ax.set_yticks(range(len(rows)), [str(row) for row in rows])
        ax.set(xlabel=label, ylabel=by, ylim=(len(rows) - 0.5, -0.5))
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.1 if paper else 0.08)  # room for the words beside a paper's value
        handles = _legend(groups if colour else [], bool(paper))
        fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return fig


def matrix(
    panels: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    unit: str = "attention weight",
    meaning: tuple[str, str] = ("cannot see", "sees"),
    sides: tuple[str, str] = ("query token", "attends to"),
) -> Figure:
    """Square matrices side by side; `sides` says what goes down and what goes across.

    Boolean panels (masks, influence matrices) show two colours named by `meaning`; others are heat maps in `unit` from
    0 to the largest value of all panels, so that panels compare.
    """
    arrays = {name: np.asarray(panel) for name, panel in panels.items()}
    shape = (len(tokens), len(tokens))
    if wrong := {name: array.shape for name, array in arrays.items() if array.shape != shape}:
        raise InputError(f"panels for {len(tokens)} tokens have shape {shape}, received {wrong}")
    boolean = all(array.dtype == bool for array in arrays.values())
    colours = ListedColormap([GROUND, PALETTE[0]]) if boolean else "cividis"
    top = 1 if boolean else max(float(array.max()) for array in arrays.values())
    with plt.rc_context(THEME):
        fig, axes = _grid(len(arrays), side=min(4.6, max(2.6, 0.34 * len(tokens))))
        for ax, (name, array) in zip(axes, arrays.items(), strict=True):
            image = ax.imshow(array.astype(float), cmap=colours, vmin=0, vmax=top)
            _token_axes(ax, tokens, name, sides)
        if boolean:
            handles = [Patch(facecolor=colours(k), edgecolor=FRAME, label=meaning[k]) for k in (1, 0)]
            fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        else:
            fig.colorbar(image, ax=axes, label=unit, orientation="horizontal", shrink=0.5, aspect=35)
    return fig


def _grid(count: int, side: float) -> tuple[Figure, list[Axes]]:
    """Axes for `count` square panels of `side` inches, at most three to a row."""
    columns = min(count, 2 if count == 4 else 3)
    rows = -(-count // columns)
    size = 1.2 + (side + 0.5) * columns, 0.7 + (side + 1.2) * rows
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="compressed")
    fig.get_layout_engine().set(h_pad=0.15, w_pad=0.08)
    for ax in axes.flat[count:]:
        ax.remove()
    return fig, list(axes.flat[:count])


def _interval(ax: Axes, values: np.ndarray, y: float, group: int) -> None:
    of, colour = summary(values), PALETTE[group]
    below = np.full(values.size, y + 0.13)  # the axis runs downwards
    ax.plot(values, below, "o", color=colour, alpha=0.6, markersize=4.5, markeredgecolor="white", zorder=2)
    if of.n > 1:
        ax.plot([of.low, of.high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt", zorder=3)
    ax.plot(of.mean, y, MARKERS[group], color=colour, markersize=9, markeredgecolor="white", zorder=4)
    ax.annotate(f"{of.mean:.1f}", (of.mean, y), (0, 8), color=colour, **NOTE)


def _published(ax: Axes, value: float, y: float) -> None:
    ax.plot(
        value,
        y,
        "D",
        markerfacecolor="white",
        markeredgecolor=PAPER,
        markeredgewidth=1.6,
        markersize=8,
        zorder=3,
    )
    ax.annotate(f"paper {value:.1f}", (value, y), (0, -18), color=PAPER, **NOTE)


def _legend(groups: Sequence[str], published: bool) -> list[Line2D]:
    def mark(label: str, **style: object) -> Line2D:
        return Line2D([], [], **{"linestyle": "", "color": PAPER, **style}, label=label)

    handles = [
        mark(str(group), marker=shape, color=colour, markersize=9)
        for group, shape, colour in zip(groups, MARKERS, PALETTE, strict=False)
    ]
    handles.append(mark("mean, 95 % t-interval", marker="o", linestyle="-", linewidth=2.5, color="#57606a"))
    handles.append(mark("one seed", marker="o", alpha=0.6, markersize=4.5, color="#57606a"))
    if published:
        handles.append(mark("published", marker="D", markerfacecolor="white", markersize=8))
    return handles


def _token_axes(ax: Axes, tokens: Sequence[str], name: str, sides: tuple[str, str]) -> None:
    shown = range(0, len(tokens), -(-len(tokens) // MAX_TICKS))
    labels = [tokens[k].replace("$", r"\$") for k in shown]  # two dollars would be TeX
    ax.set_xticks(shown, labels, rotation=90, fontsize=11)
    ax.set_yticks(shown, labels, fontsize=11)
    ax.set_xticks(np.arange(0.5, len(tokens) - 1), minor=True)
    ax.set_yticks(np.arange(0.5, len(tokens) - 1), minor=True)
    ax.grid(visible=False, which="major")
    if len(tokens) <= MAX_TICKS:
        ax.grid(which="minor", color="white", linewidth=1)
    ax.set(xlabel=sides[1], ylabel=sides[0], title=name)
