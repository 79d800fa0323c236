"""From a profile and the settings a person adds to what each notebook is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.profiles import KINDS, SETTINGS, specs
from gemma_encoder.reports.notebooks import check, fits, from_yaml, parameters


def given_parameters(names: Sequence[str], profile: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, dict]:
    """For each notebook the parameters that differ from its defaults.

    A key of the profile, or of `pairs` (texts `key=value`, which go before), is for every notebook that declares it. A
    setting of RunSpec that a notebook does not declare goes into its parameter `more`; one that the profile leaves out
    has the default of RunSpec, as in `profiles.specs`. InputError for an unknown key, a wrong type, and values that no
    run can have: all before a kernel starts.
    """
    declared = {name: parameters(name) for name in names}
    every = sorted({*SETTINGS, *(key for found in declared.values() for key in found)})
    added = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"a setting is given as key=value, received {pair!r}")
        wanted = {found[key].type for found in declared.values() if key in found}
        value = from_yaml(text)
        plain_text = any(not fits(value, kind) and fits(text, kind) for kind in wanted)
        added[check_choice("setting", key, every)] = text if plain_text else value
    if "data" in added and added["data"] != "hub":
        added = {"ranking_data": added["data"]} | added
    settings = {**profile, **added}
    specs({key: value for key, value in settings.items() if key in (*SETTINGS, *KINDS)})
    defaults = {field.name: field.default for field in fields(RunSpec) if field.name in SETTINGS}
    given = {}
    for name, found in declared.items():
        values = {key: value for key, value in {**defaults, **settings}.items() if key in found}
        if "more" in found:
            rest = {key: value for key, value in settings.items() if key in SETTINGS and key not in found}
            values["more"] = rest | values.get("more", {})
        given[name] = check(name, {key: value for key, value in values.items() if value != found[key].default})
    return given
