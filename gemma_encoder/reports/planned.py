"""The runs of notebooks in parts that have a name, for a plan of what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gemma_encoder.errors import InputError
from gemma_encoder.experiments.plan import ABLATIONS
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.profiles import TASKS, check_settings, ranking_specs, specs


def in_words(numbers: Iterable[str]) -> str:
    """Notebooks by their numbers."""
    return f"notebooks {', '.join(numbers)}"


def parts(values: Mapping[str, Mapping[str, Any]]) -> dict[str, list[RunSpec]]:
    """The runs of the notebooks, each once, in parts that have a name; `values` are their parameters by number."""
    default = {}  # the runs that a notebook would make if it varied nothing
    for number, of in values.items():
        check_settings(of.get("more", {}))
        if not of.keys().isdisjoint(TASKS):
            default[number] = specs(of)
            if not default[number]:
                raise InputError(f"notebook {number} has no runs; valid: at least one task and one seed")
    rates = [{"attention_dropout": rate, "ffn_dropout": rate} for rate in values.get("03", {}).get("rates", [])]
    varied = {**ABLATIONS, "03": rates}
    benchmarks = [number for number in default if number not in varied]
    ablations = [number for number in default if number in varied]
    base = dict.fromkeys(spec for number in benchmarks for spec in default[number])
    more = [replace(s, **variant) for number in ablations for variant in varied[number] for s in default[number]]
    return {
        f"on every task ({in_words(benchmarks)})": list(base),
        f"in the ablations ({in_words(ablations)})": [s for s in dict.fromkeys(more) if s not in base],
        "from an untrained decoder (notebook 06)": default.get("06", []),
        "of ranking (notebook 10)": ranking_specs(values["10"]) if "10" in values else [],
    }
