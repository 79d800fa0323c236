"""Views: how a row on disk or on the hub becomes the columns of its task, where they differ.

A view may mark a word in its sentence, `Do you want to come over to my *place* later?`, so that the model
knows which one is meant, or gather candidates into a list. What it cannot read is an InputError, to which the caller
adds the place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import Any

from datasets import List, Value

from gemma_encoder.errors import InputError

Row = Mapping[str, Any]
INT64 = 2**63  # what a column of integers holds is below it
GAP = "@placeholder"  # where the answer belongs in a query of ReCoRD


@dataclass(frozen=True)
class View:
    """columns: what a row must have; make: from it the task's columns; keeps: columns beyond those, with features."""

    columns: tuple[str, ...]
    make: Callable[[Row], dict[str, Any]]
    keeps: Mapping[str, Any] = field(default_factory=dict)


def whole(value: object, least: int = -INT64) -> bool:
    """Whether it is an integer that a column of them can hold. True is an int to Python, and none to us."""
    return type(value) is int and least <= value < INT64


def text_problem(text: object, may_be_empty: bool) -> str | None:
    """What keeps it from being a text of a row, or None."""
    if not isinstance(text, str):
        return f"holds {short(text)}; valid: a text"
    if not may_be_empty and not text.strip():
        return f"is empty ({short(text)}); valid: a text with at least one character that is not a space"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has half a surrogate pair at character {error.start + 1}; valid: a text that UTF-8 can hold"
    return None


def _checked(row: Row, column: str, kind: type) -> Any:
    value, names = row[column], {str: "a text", int: "an integer", list: "a list"}
    if type(value) is not kind:
        raise InputError(f"column {column!r} holds {short(value)}; valid: {names[kind]}")
    return value


def _indices(row: Row, names: tuple[str, ...]) -> dict[str, int]:
    """The column `idx` where it is made of several numbers."""
    idx = row["idx"]
    if not isinstance(idx, dict) or not all(whole(idx.get(name)) for name in names):
        raise InputError(f"column 'idx' holds {short(idx)}; valid: an integer for each of {', '.join(names)}")
    return {name: idx[name] for name in names}


def _mark(row: Row, column: str, start: str, end: str) -> str:
    """The text with the characters from `start` to `end` between asterisks."""
    text, first, last = _checked(row, column, str), _checked(row, start, int), _checked(row, end, int)
    if not 0 <= first < last <= len(text):
        raise InputError(f"{start} {first} and {end} {last} lie outside {column!r}; valid: 0 to {len(text)}")
    return f"{text[:first]}*{text[first:last]}*{text[last:]}"


def _wic(row: Row) -> dict[str, Any]:
    sentences = {f"sentence{at}": _mark(row, f"sentence{at}", f"start{at}", f"end{at}") for at in (1, 2)}
    return {"word": row["word"], "label": row["label"], **sentences}


def _wsc(row: Row) -> dict[str, Any]:
    """Marks the pronoun, span 2, whose place is counted in words; in the official data it is once a word too low."""
    words, place = _checked(row, "text", str).split(), _checked(row, "span2_index", int)
    pronoun = _checked(row, "span2_text", str).split()
    for at in (place, place + 1):
        there = " ".join(words[at : at + len(pronoun)]) if at >= 0 else ""
        found = re.fullmatch(rf"(\W*)({re.escape(' '.join(pronoun))})(\W.*)?", there, re.IGNORECASE)
        if pronoun and found:
            marked = f"{found[1]}*{found[2]}*{found[3] or ''}"
            text = " ".join([*words[:at], marked, *words[at + len(pronoun) :]])
            return {"text": text, "span1_text": row["span1_text"], "label": row["label"]}
    raise InputError(
        f"span2_text {row['span2_text']!r} is not at word {place} of the {len(words)} of 'text' (counted from 0); "
        "valid: the place of the pronoun"
    )


def _axb(row: Row) -> dict[str, Any]:
    """In the columns of RTE, whose model answers."""
    return {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": row["label"]}


def _copa(row: Row) -> dict[str, Any]:
    label, question = row["label"], row["question"]
    if type(label) is not int or label not in (0, 1):
        raise InputError(f"label {short(label)}; valid: 0 (choice1), 1 (choice2)")
    if question not in ("cause", "effect"):
        raise InputError(f"question {short(question)}; valid: cause, effect")
    choices = [row["choice1"], row["choice2"]]
    return {"premise": row["premise"], "question": question, "choice": choices, "label": [1 - label, label]}


def _multirc(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("paragraph", "question", "answer", "label")} | {
        "idx": _indices(row, ("paragraph", "question", "answer"))
    }


def _record(row: Row) -> dict[str, Any]:
    """Every entity of the passage, once, is a candidate for the gap in the query; label 1 marks the answers."""
    found, answers = _checked(row, "entities", list), _checked(row, "answers", list)
    if not all(isinstance(entity, str) for entity in found):
        raise InputError(f"column 'entities' holds {short(found)}; valid: a list of texts")
    if not answers:
        raise InputError("column 'answers' is empty; valid: at least one of the entities")
    if _checked(row, "query", str).count(GAP) != 1:
        raise InputError(f"query {short(row['query'])} has {row['query'].count(GAP)} gaps; valid: one {GAP}")
    entities = list(dict.fromkeys(found))
    if unknown := [answer for answer in answers if answer not in entities]:
        raise InputError(f"answer {short(unknown[0])} is no entity of the passage; valid: {short(entities)}")
    columns = {"passage": row["passage"], "query": row["query"], "entity": entities}
    labels = [int(entity in answers) for entity in entities]
    return columns | {"label": labels, "idx": _indices(row, ("passage", "query"))}


def _hub_passages(row: Row) -> list[dict[str, Any]]:
    """The passages of a row of the hub, which keeps them as columns; their place is the only name that they have."""
    texts, chosen = (row["passages"].get(name) for name in ("passage_text", "is_selected"))
    if type(texts) is not list or type(chosen) is not list or len(texts) != len(chosen):
        raise InputError(f"passages {short(row['passages'])}; valid: passage_text and is_selected, lists of one length")
    return [
        {"passage_id": f"{row['query_id']}-{at}", "text": text, "label": label}
        for at, (text, label) in enumerate(zip(texts, chosen, strict=True))
    ]


def _name(value: object, what: str) -> str:
    """A query or passage id as a text; MS MARCO has numbers."""
    if problem := text_problem(str(value), may_be_empty=True):
        raise InputError(f"{what} {problem}")
    return str(value)


def _ranks(passages: list[dict[str, Any]]) -> list[int | None]:
    """The places at which BM25 found the passages."""
    ranks = [passage.get("bm25_rank") for passage in passages]
    for at, rank in enumerate(ranks):
        if rank is not None and not whole(rank, 1):
            raise InputError(
                f"bm25_rank {short(rank)} of passage {at} (counted from 0); valid: an integer >= 1, or null"
            )
    if twice := _twice(rank for rank in ranks if rank is not None):
        raise InputError(f"bm25_rank {twice[0]} is that of several passages of the query; valid: of one")
    return ranks


def _twice(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _ranking(row: Row) -> dict[str, Any]:
    passages = _hub_passages(row) if isinstance(row["passages"], dict) else _checked(row, "passages", list)
    for at, passage in enumerate(passages):
        for column in ("passage_id", "text", "label"):
            if not isinstance(passage, dict) or column not in passage:
                raise InputError(f"passage {at} (counted from 0) has no {column!r}: {short(passage)}")
    names = [_name(passage["passage_id"], "passage_id") for passage in passages]
    if twice := _twice(names):
        raise InputError(f"passage_id {short(twice[0])} names several passages of the query; valid: one")
    ideal = row.get("ideal_grades") or []
    if not isinstance(ideal, list) or not all(whole(grade, 0) for grade in ideal):
        raise InputError(f"ideal_grades {short(ideal)}; valid: a list of integers >= 0")
    return {
        "query": row["query"],
        "passage": [passage["text"] for passage in passages],
        "label": [passage["label"] for passage in passages],
        "query_id": _name(row["query_id"], "query_id"),
        "passage_id": names,
        "bm25_rank": _ranks(passages),
        "ideal_grades": ideal,
    }


INDEX = Value("int64")
VIEWS: dict[str, View] = {
    "wic": View(("word", "sentence1", "sentence2", "start1", "end1", "start2", "end2", "label"), _wic),
    "wsc": View(("text", "span1_text", "span2_text", "span2_index", "label"), _wsc),
    "axb": View(("sentence1", "sentence2", "label"), _axb),
    "copa": View(("premise", "choice1", "choice2", "question", "label"), _copa),
    "multirc": View(
        ("paragraph", "question", "answer", "label", "idx"),
        _multirc,
        {"idx": dict.fromkeys(("paragraph", "question", "answer"), INDEX)},
    ),
    "record": View(
        ("passage", "query", "entities", "answers", "idx"), _record, {"idx": {"passage": INDEX, "query": INDEX}}
    ),
    "ranking": View(
        ("query_id", "query", "passages"),
        _ranking,
        {
            "query_id": Value("string"),
            "passage_id": List(Value("string")),
            "bm25_rank": List(INDEX),  # from 1; None where BM25 did not find the passage
            "ideal_grades": List(INDEX),  # the best grades of all judged passages of the query, those without text too
        },
    ),
}
