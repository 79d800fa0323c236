"""YAML as people write settings: 2e-5 is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """YAML in which 2e-5 is a number, as everyone who types a learning rate expects."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def from_yaml(text: str) -> Any:
    """What a person means by `text`: a number, a list, null ..., or the text itself where it is no YAML."""
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text
