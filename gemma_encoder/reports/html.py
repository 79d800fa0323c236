"""An executed notebook as one HTML file that needs nothing else: no script, no network, no second file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from string import Template

from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from gemma_encoder.reports.mathml import mathml

TEMPLATE = Path(__file__).parent / "template"
SHOWN = ["text/html", "text/markdown", "text/latex", "image/png", "image/jpeg", "text/plain"]
ALT_LENGTH = 15
DEFAULT_ALT = "No description has been provided for this image"
# In Markdown, dollars alone are money; dollars around what only a formula holds are TeX that was left over.
LEFTOVER_TEX = re.compile(r"\$\$|\$[^$\n]*[\\^_{}=][^$\n]*\$|\$\w\$")
REMOTE_CSS = re.compile(r"@import|url\(\s*['\"]?(?!data:|#)", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """Why a report failed, and the id of the cell where it did (None if it was no cell)."""

    message: str
    cell_id: str | None = None


def to_html(notebook: NotebookNode, title: str, failure: Failure | None = None) -> str:
    """The whole page of an executed notebook; a failure is announced before anything else.

    The notebook's own first-level heading heads the page, or `title` if it has none. InputError if a formula in a
    Markdown cell cannot be converted.
    """
    cells = [cell for cell in notebook.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]
    body, _ = _Exporter().from_notebook_node(NotebookNode(notebook, cells=cells))
    heading = "" if "<h1" in body else f"<h1>{escape(title)}</h1>\n"
    return page(title, banner(failure) + heading + body)


def page(title: str, body: str) -> str:
    """`body` inside the page that reports and index share: styles for light, dark and print, and a skip link."""
    return Template(_read("page.html")).substitute(title=escape(title), style=_style(), body=body)


def check_html(text: str) -> list[str]:
    """What keeps `text` from being a self-contained, readable page; an empty list if nothing does."""
    checker = _Checker()
    checker.feed(text)
    checker.close()
    if checker.headings != 1:
        checker.problems.append(f"{checker.headings} first-level headings, expected 1")
    if not checker.language:
        checker.problems.append("no lang on <html>")
    return checker.problems


def banner(failure: Failure | None) -> str:
    """The announcement of a failure, empty if there is none."""
    if failure is None:
        return ""
    link = f'<p><a href="#cell-id={escape(failure.cell_id)}">Go to the failing cell</a></p>' if failure.cell_id else ""
    text = f"<p><strong>FAILED</strong>: this report is not complete.</p><p>{escape(failure.message)}</p>"
    return f'<div class="failed" role="alert">{text}{link}</div>\n'


class _Renderer(IPythonRenderer):
    """Markdown with its formulas as MathML. What is a formula, and what a dollar in code, the parser has decided."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)


class _Exporter(HTMLExporter):
    """nbconvert with our template; it chooses the richest output that a page without script can show."""

    def __init__(self) -> None:
        super().__init__(extra_template_basedirs=[str(TEMPLATE.parent)], template_name=TEMPLATE.name)

    @property
    def default_config(self):
        config = super().default_config
        config.NbConvertBase.display_data_priority = SHOWN
        return config

    def default_filters(self):
        yield from super().default_filters()
        yield "markdown2html", _markdown


def _markdown(source: str) -> str:
    return MarkdownWithMath(_Renderer(escape=False, anchor_link_text="#")).render(source)


def _read(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


@cache
def _style() -> str:
    light = HtmlFormatter(style="xcode").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{_read('style.css')}"


class _Checker(HTMLParser):
    """Collects `problems` while it reads a page."""

    LITERAL = ("pre", "code", "math", "style", "script", "textarea")
    BLOCKS = ("section", "div")  # of which the template marks those that hold Markdown

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []
        self.headings = 0
        self.language = ""
        self._literal: list[str] = []
        self._markdown: list[bool] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in self.LITERAL:
            self._literal.append(tag)
        if tag in self.BLOCKS:
            self._markdown.append("markdown" in values.get("class", "").split())
        if tag in ("script", "iframe", "object", "embed", "base"):
            self.problems.append(f"<{tag}>")
        if tag == "html":
            self.language = values.get("lang", "")
        self.headings += tag == "h1"
        self.problems += [problem for name, value in values.items() if (problem := _address_problem(tag, name, value))]
        if tag == "img":
            self._check_alt(values.get("alt", ""))

    def handle_endtag(self, tag: str) -> None:
        if self._literal and self._literal[-1] == tag:
            self._literal.pop()
        if self._markdown and tag in self.BLOCKS:
            self._markdown.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._literal and (found := REMOTE_CSS.search(data)):
            self.problems.append(f"style loads {data[found.start() : found.start() + 60]!r}")
        if any(self._markdown) and not self._literal and (found := LEFTOVER_TEX.search(data)):
            self.problems.append(f"TeX left over: {found[0]!r}")

    def _check_alt(self, alt: str) -> None:
        if alt == DEFAULT_ALT or len(alt.strip()) < ALT_LENGTH:
            self.problems.append(
                f"image with alt text {alt!r}, expected at least {ALT_LENGTH} characters of description"
            )


def _address_problem(tag: str, name: str, value: str) -> str:
    """A page may embed data and point inside itself; only a link may lead elsewhere, and nothing may run."""
    address = value.strip().lower()
    if name.startswith("on") or address.startswith("javascript:"):
        return f"<{tag} {name}> runs a script"
    if name == "style" and REMOTE_CSS.search(value):
        return f"<{tag} style> loads {value!r}"
    loads = name in ("src", "srcset", "poster", "data", "background") or (name.endswith("href") and tag != "a")
    if loads and not address.startswith(("data:", "#")):
        return f"<{tag} {name}> loads {value[:60]!r}"
    return ""
