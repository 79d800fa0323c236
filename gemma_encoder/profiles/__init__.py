"""Profiles: everything that differs between a laptop and the paper, one commented YAML file each.

A profile's keys are notebook parameters; a notebook gets those that it declares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gemma_encoder.errors import InputError, check_choice

FOLDER = Path(__file__).parent


def profile_names() -> list[str]:
    """The profiles there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> dict[str, Any]:
    """The settings of profile `name`; an unknown name is an InputError that lists the valid ones."""
    path = FOLDER / f"{check_choice('profile', name, profile_names())}.yaml"
    settings = yaml.safe_load(path.read_text())
    if not isinstance(settings, dict):
        raise InputError(f"profile {name!r} holds a {type(settings).__name__}; valid: parameter names with values")
    return settings
