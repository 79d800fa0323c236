"""What the paper claims, as data: two variants of a fine-tuning, and which of them does better.

Everything a claim does not name is the paper's default: bidirectional attention, mean pooling, both dropouts 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemma_encoder.reports.published import Published, value
from gemma_encoder.reports.statistics import Paired, verdict, words
from gemma_encoder.reports.verdict import display_verdict

MODEL = "Gemma Encoder 2B"


@dataclass(frozen=True)
class Claim:
    """`first` does better than `second` (direction "higher"), or as well (direction "equal").

    first, second: the fields of RunSpec that make the two variants; names: what they are called in words.
    place: where the paper says so; first_there, second_there: what finds their values in the published numbers.
    """

    says: str
    place: str
    direction: str
    names: tuple[str, str]
    first: Mapping[str, object] = field(default_factory=dict)
    second: Mapping[str, object] = field(default_factory=dict)
    first_there: Mapping[str, object] | None = None
    second_there: Mapping[str, object] | None = None

    @property
    def published(self) -> tuple[Published, Published]:
        """The paper's values of both variants, GLUE average of the 2B model; unknown ones say so."""
        return tuple(
            Published(None) if there is None else value(place=self.place, model=MODEL, **there)
            for there in (self.first_there, self.second_there)
        )

    @property
    def published_gap(self) -> float | None:
        """The paper's difference in points, None where a value is not known."""
        first, second = (number.value for number in self.published)
        return None if first is None or second is None else first - second


def _mask(pooling: str) -> Claim:
    there = [{"attention": attention, "pooling": pooling} for attention in ("bidirectional", "causal")]
    here = {} if pooling == "mean" else {"pooling": pooling}
    return Claim(
        f"With {pooling} pooling, bidirectional attention beats causal attention",
        "Table 6",
        "higher",
        ("bidirectional", "causal"),
        here,
        here | {"attention": "causal"},
        *there,
    )


def _pooling(other: str, says: str, direction: str, there: str) -> Claim:
    return Claim(
        says, "Table 5", direction, ("mean", other), {}, {"pooling": other}, {"pooling": "mean"}, {"pooling": there}
    )


def _dropout(rate: float) -> Claim:
    return Claim(
        f"Dropout 0.1 beats {rate:g}",
        "Figure 2",
        "higher",
        ("rate 0.1", f"rate {rate:g}"),
        {},
        {"attention_dropout": float(rate), "ffn_dropout": float(rate)},
        {"dropout": 0.1},
        {"dropout": float(rate)},
    )


CLAIMS = {
    "mask, mean": _mask("mean"),
    "mask, last": _mask("last"),
    "pooling, last": _pooling("last", "Mean and last-token pooling do equally well", "equal", "last"),
    "pooling, query-probe": _pooling(
        "query-probe", "Mean pooling beats attention pooling (query probe)", "higher", "attention"
    ),
    "pooling, kv-probe": _pooling("kv-probe", "Mean pooling beats attention pooling (KV probe)", "higher", "attention"),
    "dropout, 0": _dropout(0),
    "dropout, 0.15": _dropout(0.15),
    "padding": Claim(
        "Left and right padding make no difference after fine-tuning",
        "padding comparison",
        "equal",
        ("left padding", "right padding"),
        *[{"padding": side} for side in ("left", "right")] * 2,
    ),
}


def judge(claim: Claim, of: Paired, margin: float) -> str:
    """The verdict on `claim` by the paired difference `of`; `margin` in points is what counts as equal."""
    return verdict(of, claim.direction, margin)


def display_claim(
    claim: Claim, of: Paired, where: str, margin: float = 1.0, learnt: tuple[bool, bool] = (True, True)
) -> None:
    """Show the verdict on `claim` with its evidence; `where` names tasks and data.

    learnt: whether the two variants got above what needs no model. A difference from one that did not says that it
    was not learnt with this training, and no more; the evidence then says so.
    """
    gap = claim.published_gap
    there = "no number known" if gap is None else f"{gap:+.1f} points there, 2B on GLUE"
    equal = f"; equal means: the whole interval lies within ±{margin:g} points" if claim.direction == "equal" else ""
    unlearnt = [name for name, good in zip(claim.names, learnt, strict=True) if not good]
    caution = [f" With this training {name} does not get above what needs no model." for name in unlearnt]
    display_verdict(
        f"{claim.says} ({claim.place}; {there}).",
        judge(claim, of, margin),
        f"{words(of)}{equal}. {where}." + "".join(caution),
        {"difference": of.difference, "low": of.low, "high": of.high, "seeds": of.n},
    )
