"""Errors that a person can correct: one line, naming the value received and the valid ones."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input. The message is one line; the command line prints it and exits with code 2."""


class CommandFailed(RuntimeError):  # noqa: N818
    """Work that was rightly asked for and failed; the command line prints the message and exits with 1."""


class VisibilityError(CommandFailed):
    """The measured influence matrix is not the one that was asked for."""


def check_choice(what: str, value: object, valid: Iterable[str]) -> str:
    """Return `value` if it is one of `valid`; else raise InputError naming both, with the closest match."""
    valid = sorted(valid)
    if value in valid:
        return str(value)
    close = get_close_matches(str(value), valid, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(f"unknown {what} {value!r}{hint}; valid: {', '.join(valid) or 'none'}")
