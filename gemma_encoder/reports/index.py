"""The page that comes first: what was found, where to read it, and with what it was made."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from gemma_encoder.errors import CommandFailed
from gemma_encoder.files import write_whole
from gemma_encoder.reports.html import check_html, page
from gemma_encoder.reports.runner import Result
from gemma_encoder.reports.tables import table_html
from gemma_encoder.reports.verdict import verdict_html

PACKAGES = ("gemma-encoder", "torch", "transformers", "numpy", "datasets")
SLASH = r"[/\\]"
PATH_ALONE = re.compile(rf"{SLASH}|~|[A-Za-z]:{SLASH}")
PART = r"[\w.+@%-]+"
# a folder may have spaces in its name; behind the last part it is the sentence that goes on
ABSOLUTE_PATH = re.compile(
    rf"(?:file://[\w.-]*|(?<![\w.:/<])(?:[A-Za-z]:)?)(?:[/\\]{PART}(?: {PART}){{0,4}}(?=[/\\]))+[/\\]{PART}"
)


def write_index(results: Iterable[Result], path: Path, title: str, facts: Mapping[str, Any]) -> None:
    """Write the index of `results` to `path`: verdicts, reports, parameters and environment.

    `facts` are shown as they are (profile, model, data ...); of an absolute path only the last part is.
    CommandFailed if the page breaks the rules for reports.
    """
    results = list(results)
    failed = [result for result in results if result.status == "failed"]
    outcome = f"{len(failed)} failed" if failed else "all complete"
    noun = "report" if len(results) == 1 else "reports"
    kind = "status-failed" if failed else "status-ok"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="{kind}">{len(results)} {noun}, {outcome}.</p>',
            f"<h2>Verdicts</h2>\n{_verdicts(results, path)}",
            f"<h2>Reports</h2>\n{_reports(results, path)}",
            f"<h2>Parameters and environment</h2>\n{_parameters(results)}{_facts({**facts, **environment()})}",
        ]
    )
    text = page(title, body)
    if problems := check_html(text):
        raise CommandFailed(f"the index page breaks the rules for reports: {'; '.join(problems)}")
    write_whole(path, text)


def environment() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def without_paths(text: object) -> str:
    """`text` with every absolute path cut to its last part: a shared page tells nothing about the machine."""
    return ABSOLUTE_PATH.sub(lambda found: "…/" + re.split(SLASH, found[0])[-1], str(text))


def _value(value: object) -> str:
    """A fact or parameter, of a path alone its last part, whatever signs are in the names of its folders."""
    text = str(value)
    if not PATH_ALONE.match(text):
        return without_paths(text)
    return "…/" + re.split(SLASH, text.rstrip("/\\"))[-1]


def _verdicts(results: list[Result], path: Path) -> str:
    """Every verdict once, with the reports that gave it."""
    sources: dict[str, list[str]] = {}
    for result in results:
        for verdict in result.verdicts:
            block = verdict_html({**verdict, "evidence": without_paths(verdict["evidence"])})
            sources.setdefault(block, []).append(_source(result, path))
    blocks = [f'{block}<p class="small">Report: {", ".join(names)}</p>' for block, names in sources.items()]
    return "\n".join(blocks) or "<p>No report gave a verdict.</p>"


def _source(result: Result, path: Path) -> str:
    failed = ' (<span class="status-failed">which failed</span>)' if result.status == "failed" else ""
    return f"{_link(result, path)}{failed}"


def _reports(results: list[Result], path: Path) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{_link(result, path)}</th><td class="status-{result.status}">{result.status}</td>'
        f'<td style="text-align: right">{_duration(result.seconds)}</td>'
        f"<td>{escape(without_paths(result.error))}</td></tr>"
        for result in results
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("report", "status", "time", "error"))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _parameters(results: list[Result]) -> str:
    rows = [(r.name, name, _value(value)) for r in results for name, value in r.parameters.items()]
    if not rows:
        return "<p>Every report ran with its default parameters.</p>\n"
    frame = pd.DataFrame(rows, columns=["report", "parameter", "value"])
    return f'<div class="wide">{table_html(frame, "Parameters that differ from the defaults")}</div>\n'


def _facts(facts: Mapping[str, Any]) -> str:
    frame = pd.DataFrame([(name, _value(value)) for name, value in facts.items()], columns=["what", "value"])
    return f'<div class="wide">{table_html(frame, "What these reports were made with")}</div>'


def _link(result: Result, path: Path) -> str:
    label = escape(result.name)
    if result.html is None:
        return f"{label} (not written)"
    address = Path(os.path.relpath(result.html, path.parent)).as_posix()
    return f'<a href="{escape(address)}">{label}</a>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
