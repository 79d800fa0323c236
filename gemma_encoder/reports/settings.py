"""From a profile and the settings a person adds to what each notebook is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gemma_encoder.dropout import check_rate
from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.experiments.spec import RunSpec, spec_fields
from gemma_encoder.loading import checkpoint_path, decoder_config, model_digest
from gemma_encoder.profiles import FIRST, KINDS, RANKING_TASK, SETTINGS, TASKS, check_settings, check_value, specs
from gemma_encoder.reports.notebooks import Parameter, all_parameters, check, parameters, value_of
from gemma_encoder.tasks import get_task, load, tasks_in
from gemma_encoder.yaml_values import split_pairs

LEAST = {"workers": 0, "margin": 0.0}  # of parameters that are no settings of a run
ADAPTATION = {"attention", "pooling", "attention_dropout", "ffn_dropout", "padding"}


def given_parameters(names: Sequence[str], profile: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, dict]:
    """For each notebook the parameters that differ from its defaults.

    A key of the profile, or of `pairs` (texts `key=value`, which go before), is for every notebook that declares it. A
    setting of RunSpec that a notebook does not declare goes into its parameter `more`; one that the profile leaves out
    has the default of RunSpec, as in `profiles.specs`. `data` is no further setting: a notebook that does not declare
    it has rows of its own. InputError for an unknown key, a wrong type, and values that no run can have: all before a
    kernel starts.
    """
    declared = {name: parameters(name) for name in names}
    every = sorted({*SETTINGS, *(key for found in declared.values() for key in found)})
    added = {}
    for key, text in split_pairs(pairs).items():
        check_choice("setting", key, every)
        wanted = {found[key].type for found in declared.values() if key in found} or {spec_fields()[key]}
        added[key] = value_of(text, *wanted)
        check_value(key, added[key])
    settings = {**profile, **added}
    specs({key: value for key, value in settings.items() if key in (*SETTINGS, *KINDS)})
    defaults = {field.name: field.default for field in fields(RunSpec) if field.name in SETTINGS}
    given = {}
    for name, found in declared.items():
        known = {**defaults, **settings, **_ranking_data(profile, added, found)}
        values = check(name, {key: value for key, value in known.items() if key in found})
        if "more" in found:
            rest = {key: value for key, value in settings.items() if key in SETTINGS and key not in (*found, "data")}
            values["more"] = rest | values.get("more", {})
        given[name] = {key: value for key, value in values.items() if value != found[key].default}
    return given


def _ranking_data(
    profile: Mapping[str, Any], added: Mapping[str, Any], found: Mapping[str, Parameter]
) -> dict[str, str]:
    """Where a notebook with parameters `found` looks for lists of candidates, if the data of the other tasks say so.

    Those that a person added go before all that a profile says.

    Beside other tasks, a folder without any leaves ranking where it was; a notebook that asks for nothing else takes
    the folder as it is, so that what is missing is said.
    """
    given = added if "data" in added else {**profile, **added}
    if (
        "data" not in given
        or "ranking_data" in given
        or ("data" in found and RANKING_TASK not in tasks_in(given["data"]))
    ):
        return {}
    return {"ranking_data": given["data"]}


def check_inputs(given: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what the runs of notebooks would trip over, while it is still one line and no kernel has started.

    `given` maps a notebook to the parameters that differ from its defaults. InputError for what `check_runs` refuses, a
    model that is not there or cannot be adapted, a task that is not in the data, and a row that is not valid.
    """
    check_runs(given)
    models, controls, rows = set(), set(), set()
    for name, changed in given.items():
        values = all_parameters(name, changed)
        models.add(values.get("model", "tiny"))
        controls.add(values.get("control") or "tiny")
        rows.update(_tables(values))
    for model in models:
        decoder_config(model)
    for model in models | controls:
        if not Path(checkpoint_path(model)).is_dir():
            model_digest(model)  # asks the hub
    for task, data in rows:
        load(get_task(task), data)


def check_runs(given: Mapping[str, Mapping[str, Any]]) -> None:
    """The part of `check_inputs` that needs neither models nor rows.

    InputError for an unknown task, an empty list of seeds, tasks or list sizes, and settings that no run can have.
    """
    for name, changed in given.items():
        values = all_parameters(name, changed)
        _check_parameters(name, values)
        if double := sorted(values.get("more", {}).keys() & values.keys()):
            raise InputError(f"more holds {', '.join(double)}; valid: as parameters of their own in notebook {name}")
        for key in ("seeds", "list_sizes", *TASKS):
            if values.get(key) == []:
                raise InputError(f"{key} [] is empty; valid: at least one")
        for task, _ in _tables(values):
            for size in values.get("list_sizes", [2]):
                _check_spec(task, values, size)


def _tables(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The tasks that a notebook with these parameters trains on, each with the place of its rows."""
    ranking = [(values.get("ranking_task", RANKING_TASK), values["ranking_data"])] if "ranking_data" in values else []
    tasks = [task for key in TASKS for task in values.get(key, [])] or ([FIRST] if "data" in values else [])
    return [*ranking, *((task, values.get("data", "builtin")) for task in tasks)]


def _check_parameters(name: str, values: Mapping[str, Any]) -> None:
    """What a parameter cannot be, whatever the task."""
    for key, value in values.items():
        check_value(key, value)
        if key in LEAST and value < LEAST[key]:
            raise InputError(f"{key} {value!r} is too small; valid: at least {LEAST[key]}")
    if "rates" in values:
        _check_rates(values["rates"])
    if "tasks" in values:  # an ablation
        of_task = [key for own in values.get("per_task", {}).values() for key in own]
        if fixed := sorted(ADAPTATION & {*values.get("more", {}), *of_task}):
            raise InputError(
                f"{', '.join(fixed)} cannot be set in notebook {name}, which varies the adaptation or keeps it at the "
                "paper's; valid: in a notebook about a benchmark"
            )


def _check_rates(rates: Sequence[float]) -> None:
    """The rates of dropout that are compared."""
    for rate in rates:
        check_rate("rate", rate)
    if len({*rates}) < len(rates) or not {0.0, 0.1} <= {*rates}:
        raise InputError(f"rates {rates!r} are not valid; valid: 0 and 0.1, which the paper compares, and others once")


def _check_spec(task: str, values: Mapping[str, Any], list_size: int) -> None:
    """A run of a notebook with these parameters is one that RunSpec takes."""
    settings = {key: value for key, value in values.items() if key in SETTINGS} | {"list_size": list_size}
    for further in (values.get("more", {}), values.get("per_task", {}).get(task, {})):
        check_settings(further)
        settings |= further
    for seed in values.get("seeds", [0]):
        RunSpec(task=task, seed=seed, **settings)
