"""Which notebooks there are, which parameters they take, and whether given ones fit: all before a kernel starts.

A notebook is `NN_name.ipynb`. Exactly one cell is tagged "parameters"; it assigns plain literals, one per name, with a
simple annotation where the default does not tell the type, and a trailing comment as help:

    seeds: list[int] = [0, 1, 2]  # one training run each
    data_dir: str | None = None  # folder with task files; None is the built-in data
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.paths import NOTEBOOKS
from gemma_encoder.yaml_values import from_yaml, split_pairs

SIMPLE = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "dict": dict,
    "None": type(None),
}
SECRET_NAME = re.compile(r"(^|_)(token|password|passwd|secret|api_?key|credentials?)($|_)", re.IGNORECASE)
HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook; `type` is an annotation such as `list[int]` or `str | None`."""

    name: str
    type: str
    default: Any
    help: str


def notebook_names(folder: Path = NOTEBOOKS) -> list[str]:
    """Stems of the numbered notebooks, in order."""
    return sorted(path.stem for path in folder.glob("[0-9][0-9]_*.ipynb"))


def full_name(name: str, folder: Path = NOTEBOOKS) -> str:
    """The stem of notebook `name`, which may leave out its number or be the number; InputError if there is none."""
    stems = notebook_names(folder)
    short = {key: stem for stem in stems for key in (stem[:2], stem[3:])}
    return short.get(name) or check_choice("notebook", name, stems)


def parameters(name: str, folder: Path = NOTEBOOKS) -> dict[str, Parameter]:
    """The parameters that notebook `name` declares, in order. InputError if its cell holds anything but literals."""
    name = full_name(name, folder)
    notebook = json.loads((folder / f"{name}.ipynb").read_text())  # nbformat takes seconds to import
    cells = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"notebook {name!r} has {len(cells)} cells tagged 'parameters'; valid: exactly 1")
    source = "".join(cells[0]["source"])
    comments = _comments(source)
    try:
        found = [_declared(line, comments) for line in ast.parse(source).body]
    except (ValueError, SyntaxError) as error:
        raise InputError(f"parameters cell of notebook {name!r}: {error}") from None
    return {parameter.name: parameter for parameter in found}


def check(name: str, given: Mapping[str, Any], folder: Path = NOTEBOOKS) -> dict[str, Any]:
    """Return `given` if notebook `name` takes every one of these parameters with these types; else InputError."""
    for key, value in given.items():
        if SECRET_NAME.search(key) or HUB_TOKEN.search(str(value)):
            raise InputError(
                f"parameter {key!r} is refused: a parameter ends up in reports, a secret must not; use `hf auth login`"
            )
    declared = parameters(name, folder)
    for key, value in given.items():
        expected = declared[check_choice(f"parameter of notebook {full_name(name, folder)!r}", key, declared)].type
        if not fits(value, expected):
            raise InputError(f"parameter {key!r} takes {expected}, received {value!r} ({type(value).__name__})")
    return dict(given)


def parse(name: str, pairs: Iterable[str], folder: Path = NOTEBOOKS) -> dict[str, Any]:
    """Checked parameters from texts `key=value`."""
    declared = parameters(name, folder)
    types = {key: found.type for key, found in declared.items()}
    given = {key: value_of(text, types.get(key, "str")) for key, text in split_pairs(pairs).items()}
    given = check(name, given, folder)
    if "more" in given:  # settings beside those that it has by itself
        given["more"] = declared["more"].default | given["more"]
    return given


def all_parameters(name: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a notebook: its default, or what it was changed to."""
    return {key: found.default for key, found in parameters(name).items()} | dict(changed)


def value_of(text: str, *types: str) -> Any:
    """What a person means by `text`, where a value of one of these types is wanted.

    Where that can only be a text, it is this one, with its quotes and signs: a folder may be called `my #1`. Else it
    is YAML, or the text itself where only that fits.
    """
    if {*types} == {"str"}:
        return text
    value = from_yaml(text)
    return text if any(not fits(value, kind) and fits(text, kind) for kind in types) else value


def fits(value: object, annotation: str) -> bool:
    """Is `value` of the type that `annotation` names? An int is a float; a bool is not an int."""
    return _fits(value, ast.parse(annotation, mode="eval").body)


def _fits(value: object, node: ast.expr) -> bool:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Subscript(value=ast.Name(id="list"), slice=element):
            return isinstance(value, list) and all(_fits(item, element) for item in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, element])):
            return isinstance(value, dict) and all(_fits(k, key) and _fits(v, element) for k, v in value.items())
        case ast.Name(id="float"):
            return type(value) in (int, float)
        case ast.Name(id=name) if name in SIMPLE:
            return type(value) is SIMPLE[name]
        case ast.Constant(value=None):
            return value is None
    raise ValueError(f"type {ast.unparse(node)!r} is not simple; valid: {', '.join(SIMPLE)}, list[...], dict[...], |")


def _declared(line: ast.stmt, comments: Mapping[int, str]) -> Parameter:
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=literal):
            annotation = None
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as literal):
            pass
        case _:
            raise ValueError(f"line {line.lineno} is not `name = literal`: {ast.unparse(line)!r}")
    try:
        default = ast.literal_eval(literal)
    except ValueError:
        raise ValueError(f"line {line.lineno}: {name} is not a plain literal: {ast.unparse(literal)!r}") from None
    if SECRET_NAME.search(name):
        raise ValueError(f"line {line.lineno}: {name} looks like a secret, which is never a parameter")
    kind = ast.unparse(annotation) if annotation else _type_of(default)
    if not fits(default, kind):
        raise ValueError(f"line {line.lineno}: {name} takes {kind}, received {default!r} ({type(default).__name__})")
    return Parameter(name, kind, default, comments.get(line.end_lineno or line.lineno, ""))


def _type_of(default: object) -> str:
    if default is None:
        raise ValueError("a default of None needs an annotation, such as `name: str | None = None`")
    if isinstance(default, list) and default:
        kinds = {type(item).__name__ for item in default}
        return f"list[{kinds.pop()}]" if len(kinds) == 1 else "list"
    return type(default).__name__


def _comments(source: str) -> dict[int, str]:
    """Trailing comments by line number."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
