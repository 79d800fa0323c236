"""Means over seeds with intervals, and comparisons paired by seed, in numbers and in words.

All values are in points (0 to 100). Intervals are 95 % Student-t intervals: mean +- t(0.975, n-1) * sd / sqrt(n), with
the sample standard deviation (n - 1). One value has no interval: its bounds are NaN and every sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from gemma_encoder.errors import InputError, check_choice

LEVEL = 0.95
VERDICTS = ("supported", "not supported", "cannot tell at this size")
BySeed = Mapping[int, float] | pd.Series


@dataclass(frozen=True)
class Summary:
    """Mean of `n` values, their standard deviation, and the 95 % interval of the mean."""

    mean: float
    sd: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.mean:.1f} (1 seed, no interval)"
        return f"{self.mean:.1f} (95 % interval {self.low:.1f} to {self.high:.1f}, {self.n} seeds)"


@dataclass(frozen=True)
class Paired:
    """Mean difference first - second over `n` seeds, and its 95 % interval."""

    difference: float
    low: float
    high: float
    n: int
    names: tuple[str, str] = ("the first", "the second")
    fixed: bool = False  # the second is one value, the same for every seed


def summary(values: Sequence[float], level: float = LEVEL) -> Summary:
    """Mean, standard deviation and interval of `values`, one per seed. InputError if empty or not finite."""
    data = np.asarray(list(values), dtype=float)
    if data.size == 0 or not np.isfinite(data).all():
        raise InputError(f"a summary needs at least one finite value, received {data.tolist()}")
    n, mean = data.size, float(data.mean())
    if n == 1:
        return Summary(mean, math.nan, math.nan, math.nan, 1)
    sd = float(data.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(mean, sd, mean - half, mean + half, n)


def seed_means(frame: pd.DataFrame, value: str = "score") -> pd.Series:
    """One value per seed: the plain mean over tasks. The columns are `seed`, `task` and `value`.

    A comparison over several tasks averages here first and pairs by seed afterwards: tasks are fixed, seeds are the
    sample. Every seed must hold every task exactly once (InputError), or the means would not be comparable.
    """
    table = frame.groupby(["seed", "task"])[value].agg(["size", "mean"]).unstack("task")
    if not (table["size"] == 1).all(axis=None):
        raise InputError(f"every seed needs every task exactly once, received counts {table['size'].to_dict('index')}")
    return table["mean"].mean(axis=1)


def paired(a: BySeed, b: BySeed, names: tuple[str, str] = ("the first", "the second"), level: float = LEVEL) -> Paired:
    """Compare `a` with `b`, each a mapping seed -> points; the differences a - b are taken seed by seed."""
    a, b = dict(a.items()), dict(b.items())
    if a.keys() != b.keys():
        raise InputError(f"a paired comparison needs the same seeds, received {sorted(a)} and {sorted(b)}")
    of = summary([a[seed] - b[seed] for seed in a], level)
    return Paired(of.mean, of.low, of.high, of.n, names)


def above(a: BySeed, fixed: float, names: tuple[str, str] = ("the first", "the second")) -> Paired:
    """Compare `a`, a mapping seed -> points, with a value that no seed changes, such as a floor."""
    return replace(paired(a, dict.fromkeys(a.keys(), fixed), names), fixed=True)


def at_once(count: int, level: float = LEVEL) -> float:
    """The level of each of `count` intervals that hold together at `level`, whatever their dependence (Bonferroni)."""
    return 1 - (1 - level) / count


def words(result: Paired) -> str:
    """One sentence about a paired difference; it claims a difference only if the interval leaves zero out."""
    first, second = result.names
    side, kind = "above" if result.difference >= 0 else "below", "seeds" if result.fixed else "paired seeds"
    gap = f"{first} is {abs(result.difference):.1f} points {side} {second}"
    if result.n == 1:
        return f"no difference shown: {gap} (1 {kind[:-1]}, no interval)"
    size = f"(95 % interval {result.low:.1f} to {result.high:.1f}, {result.n} {kind})"
    shown = result.low > 0 or result.high < 0
    return f"{gap} {size}" if shown else f"no difference shown: {gap} {size}"


def verdict(result: Paired, direction: str = "higher", margin: float = 1.0) -> str:
    """Does the measured difference bear out the paper? `direction` is what the paper says of first against second.

    higher: supported if the whole interval lies above zero, not supported if it lies wholly below. equal: supported if
    the whole interval lies within +-`margin` points, not supported if wholly outside.
    Everything else, and a single seed, cannot tell.
    """
    low, high = result.low, result.high
    if check_choice("direction", direction, ("higher", "equal")) == "equal":
        supported, refuted = -margin < low and high < margin, low > margin or high < -margin
    else:
        supported, refuted = low > 0, high < 0
    return VERDICTS[0] if supported else VERDICTS[1] if refuted else VERDICTS[2]
