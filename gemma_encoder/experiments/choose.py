"""Choosing a setting without looking at the validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gemma_encoder.errors import InputError
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.store import RUNS
from gemma_encoder.experiments.sweep import sweep


def choose_learning_rate(spec: RunSpec, rates: Sequence[float], root: Path = RUNS) -> tuple[float, dict[float, float]]:
    """The learning rate that scores best, and the score of each, in points.

    Every rate trains on nine tenths of the training split and is scored on the last one; of equal scores the smaller
    rate is taken. The seed is that of `spec`: choose with one that is not among those that are compared afterwards.
    Raises InputError without rates.
    """
    if not rates:
        raise InputError("no learning rates to choose from; valid: at least one")
    specs = [replace(spec, learning_rate=rate, evaluate_on="holdout") for rate in rates]
    scores = {result.spec.learning_rate: result.score for result in sweep(specs, root)}
    return min(scores, key=lambda rate: (-scores[rate], rate)), scores
