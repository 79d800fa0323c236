"""What the paper claims, as data: variants of a fine-tuning, and which of them do better.

Everything a claim does not name is the paper's default: bidirectional attention, mean pooling, both dropouts 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from gemma_encoder.reports.published import MARKS, Published, value
from gemma_encoder.reports.statistics import LEVEL, VERDICTS, Paired, at_once, paired, verdict, words
from gemma_encoder.reports.tables import UNKNOWN, difference, signed
from gemma_encoder.reports.verdict import display_verdict

MODEL = "Gemma Encoder 2B"
Variant = Mapping[str, object]  # the fields of RunSpec that make it


@dataclass(frozen=True)
class Claim:
    """`first` does better than `second` (direction "higher"), or as well (direction "equal").

    first, second: one variant each, or several, of which the best counts, whichever that is (`compare`).
    names: what both sides are called in words.
    place: where the paper says so; first_there, second_there: what finds their values in the published numbers.
    model: the paper's; ours: True where the paper's answer was not found, so that the question is this kit's.
    note: what one must know of the paper's value.
    """

    says: str
    place: str
    direction: str
    names: tuple[str, str]
    first: tuple[Variant, ...] = ({},)
    second: tuple[Variant, ...] = ({},)
    first_there: Variant | None = None
    second_there: Variant | None = None
    model: str = MODEL
    ours: bool = False
    note: str = ""

    @property
    def published(self) -> tuple[Published, Published]:
        """The paper's values of both sides, GLUE average of its model; unknown ones say so."""
        at = {"place": self.place, "model": self.model, "metric": "average"}
        sides = (self.first_there, self.second_there)
        return tuple(Published(None) if there is None else value(**at, **there) for there in sides)

    @property
    def size(self) -> str:
        """Of the paper's model, "2B" or "9B"."""
        return self.model.rpartition(" ")[2]

    @property
    def published_gap(self) -> float | None:
        """The paper's difference in points, None where a value is not known."""
        first, second = (number.value for number in self.published)
        return None if first is None or second is None else first - second

    @property
    def source(self) -> str:
        """Where the paper says so, by how much and how sure that is, in words."""
        if self.published_gap is None:
            parts = [UNKNOWN] if self.ours else [self.place, "no number known"]
        else:
            mark = max((number.confidence for number in self.published), key=list(MARKS).index)
            gap = f"{self.published_gap:+.1f} points there, {self.size} on GLUE, {MARKS[mark]} [{mark}]"
            parts = [self.place, gap]
        return "; ".join([*parts, self.note] if self.note else parts)


@dataclass(frozen=True)
class Untested:
    """A claim of the paper about a model that this kit does not run, and why its runs cannot judge it."""

    says: str
    place: str
    why: str


def _mask(pooling: str, model: str = MODEL, ours: bool = False, note: str = "") -> Claim:
    here = {} if pooling == "mean" else {"pooling": pooling}
    return Claim(
        f"With {pooling} pooling, bidirectional attention beats causal attention",
        "Table 6",
        "higher",
        ("bidirectional", "causal"),
        (here,),
        (here | {"attention": "causal"},),
        {"attention": "bidirectional", "pooling": pooling},
        {"attention": "causal", "pooling": pooling},
        model,
        ours,
        note,
    )


def _pooling(other: str, says: str, direction: str, there: str, note: str = "") -> Claim:
    return Claim(
        says,
        "Table 5",
        direction,
        ("mean", other),
        second=({"pooling": other},),
        first_there={"pooling": "mean"},
        second_there={"pooling": there},
        note=note,
    )


def _probe(kind: str) -> Claim:
    says, note = f"Mean pooling beats attention pooling ({kind})", "which of the two probes is not named"
    return _pooling(kind.lower().replace(" ", "-"), says, "higher", "attention", note)


def _rate(rate: float) -> Variant:
    return {"attention_dropout": rate, "ffn_dropout": rate}


def _dropout(rate: float, says: str) -> Claim:
    names, there = ("rate 0.1", f"rate {rate:g}"), ({"dropout": 0.1}, {"dropout": rate})
    return Claim(says, "Figure 2", "higher", names, ({},), (_rate(rate),), *there)


CLAIMS = {
    "mask, mean": _mask("mean"),
    "mask, mean, 9B": _mask("mean", "Gemma Encoder 9B", note="its pooler taken to be mean"),
    "mask, last": _mask("last", ours=True, note="our question"),
    "pooling, last": _pooling(
        "last", "Mean and last-token pooling do equally well", "equal", "last", "that they do is our reading"
    ),
    "pooling, query-probe": _probe("query probe"),
    "pooling, kv-probe": _probe("KV probe"),
    "pooling, best": Claim(
        "The best poolers have no parameters of their own",
        "Table 5",
        "higher",
        ("the best of mean and last", "the best probe"),
        ({}, {"pooling": "last"}),
        ({"pooling": "query-probe"}, {"pooling": "kv-probe"}),
        {"pooling": "mean"},
    ),
    "dropout, 0": _dropout(0.0, "Dropout 0.1 beats none"),
    "dropout, 0.15": _dropout(0.15, "Higher dropout is worse: 0.1 beats 0.15"),
    "dropout, 0.2": _dropout(0.2, "Higher dropout is worse: 0.1 beats 0.2"),
    "dropout, best": Claim(
        "Dropout 0.1 is the optimum",
        "Figure 2",
        "higher",
        ("rate 0.1", "the best other rate"),
        second=tuple(_rate(rate) for rate in (0.0, 0.05, 0.15, 0.2)),
        first_there={"dropout": 0.1},
    ),
    "padding": Claim(
        "Left and right padding make no difference after fine-tuning",
        "padding comparison",
        "equal",
        ("left padding", "right padding"),
        ({"padding": "left"},),
        ({"padding": "right"},),
        {"padding": "left"},
        {"padding": "right"},
        note="said to be not significant",
    ),
}

UNTESTED = {
    "T5, GLUE": Untested(
        "On GLUE the adapted models do as well as T5 or better",
        "section 3.3",
        "No T5 is run here, and which T5 the paper took is not known; notebook 08 has GLUE beside the literature.",
    ),
    "T5, SuperGLUE": Untested(
        "On SuperGLUE the adapted models do as well as T5 or better",
        "section 3.3",
        "No T5 is run here, and which T5 the paper took is not known; notebook 09 has SuperGLUE beside the literature.",
    ),
    "RankT5": Untested(
        "On MS MARCO the adapted models rank better than RankT5",
        "section not known",
        "No RankT5 is run here, and its candidates are not known; notebook 10 ranks beside BM25.",
    ),
}


def variant_name(variant: Variant) -> str:
    """What a variant is called in words: what it changes of the paper's default."""
    changed = (f"{name.replace('_', ' ')} {f'{x:g}' if isinstance(x, float) else x}" for name, x in variant.items())
    return ", ".join(changed) or "the paper's default"


def variants() -> dict[str, dict[str, object]]:
    """Every variant that a claim compares, once, by its name: what `run_variants` takes."""
    return {variant_name(one): dict(one) for claim in CLAIMS.values() for one in (*claim.first, *claim.second)}


def sides(claim: Claim, scores: Mapping[str, pd.Series]) -> tuple[list[pd.Series], list[pd.Series]]:
    """The scores by seed of every variant of both sides of `claim`; `scores` has all by name."""
    return tuple([scores[variant_name(one)] for one in side] for side in (claim.first, claim.second))


def compare(claim: Claim, scores: Mapping[str, pd.Series], level: float = LEVEL) -> Paired:
    """The difference of both sides of `claim`, paired by seed; of several variants that of the best ones.

    Which are the best is not known, only which have the highest means. So the interval is
    `max_f min_s low(f - s)` to `min_s max_f high(f - s)` over the variants f of the first side and s of the second,
    with low at the level at which those of all f hold together, and high of all s (`at_once`). Above zero, some f beats
    every s, and below, some s every f. Of one variant each it is the t-interval.
    """
    first, second = sides(claim, scores)
    best = (max(side, key=lambda series: series.mean()) for side in (first, second))
    of = paired(*best, claim.names, level)
    lows = [min(paired(f, s, level=at_once(len(first), level)).low for s in second) for f in first]
    highs = [max(paired(f, s, level=at_once(len(second), level)).high for f in first) for s in second]
    return replace(of, low=max(lows), high=min(highs))


def beside(of: Paired, claim: Claim | None) -> dict[str, str]:
    """The columns paper / here / difference: of `of` and what `claim` says of it, None where the paper says nothing."""
    paper, note = (claim.published_gap, claim.note) if claim else (None, "")
    interval = "1 seed, no interval" if of.n == 1 else f"{of.low:+z.1f} to {of.high:+z.1f}"
    return {
        "paper": signed(paper) + (f" ({note})" if note else ""),
        "here": f"{of.difference:+z.1f} ({interval})",
        "here - paper": difference(of.difference, paper),
    }


def judge(claim: Claim, of: Paired, margin: float, learnt: tuple[bool, bool] = (True, True)) -> str:
    """The verdict on `claim` by the paired difference `of`; `margin` in points is what counts as equal.

    learnt: whether all variants of each side were shown to get above what needs no model. A difference from one that
    was not says that it was not learnt with this training, and nothing of the claim.
    """
    return verdict(of, claim.direction, margin) if all(learnt) else VERDICTS[2]


def display_claim(
    claim: Claim, of: Paired, where: str, margin: float = 1.0, learnt: tuple[bool, bool] = (True, True)
) -> None:
    """Show the verdict on `claim` with its evidence; `where` names tasks and data, `learnt` is that of `judge`."""
    equal = f"; equal means: the whole interval lies within ±{margin:g} points" if claim.direction == "equal" else ""
    display_verdict(
        f"{claim.says} ({claim.source}).",
        judge(claim, of, margin, learnt),
        f"{words(of)}{equal}. {where}." + _held(claim, of) * all(learnt) + _caution(claim, learnt),
        {"difference": of.difference, "low": of.low, "high": of.high, "seeds": of.n},
    )


def _caution(claim: Claim, learnt: tuple[bool, bool]) -> str:
    """Which side holds a variant that was not learnt, in words."""
    of = zip(claim.names, (claim.first, claim.second), learnt, strict=True)
    who = [name if len(side) == 1 else f"a variant behind {name}" for name, side, good in of if not good]
    return "".join(
        f" With this training {name} is not shown to get above what needs no model: "
        "this compares training, not the two."
        for name in who
    )


def _held(claim: Claim, of: Paired) -> str:
    """Whether the paper's difference lies in the interval, in words; nothing where either is not known."""
    gap = claim.published_gap
    if gap is None or of.n == 1:
        return ""
    if of.low <= gap <= of.high:
        return f" The paper's {gap:+.1f} lies within this interval."
    return f" The paper's {gap:+.1f} lies outside this interval: this model, on these tasks, shows another effect."


def display_untested(claim: Untested) -> None:
    """Show `claim` with the verdict that no run here can give another one, and why."""
    display_verdict(f"{claim.says} ({claim.place}; no number known).", VERDICTS[2], claim.why, {})
