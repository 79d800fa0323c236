"""YAML as people write settings: 2e-5 is a number, and what no type can hold is a fault of YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from gemma_encoder.errors import InputError


class Loader(yaml.SafeLoader):
    """YAML in which 2e-5 is a number, as everyone who types a learning rate expects.

    A scalar that its type cannot hold, such as a date in month 13, is a YAMLError with its line.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """What the node stands for."""
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # dates, numbers and booleans each raise their own kinds
            said = f"{node.value!r} is not valid as {node.tag.rsplit(':', 1)[-1]}"
            raise ConstructorError(None, None, said, node.start_mark) from error


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def split_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """`key=value` texts as a dictionary, the last of a key; InputError for one without `=`."""
    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"a setting is given as key=value, received {pair!r}")
        found[key] = text
    return found


def from_yaml(text: str) -> Any:
    """What a person means by `text`: a number, a list, null ..., or the text itself where it is no YAML."""
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text
