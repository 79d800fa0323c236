"""Reports as HTML: self-contained, readable, with formulas and figures that everyone can read."""

import base64
import re

import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from gemma_encoder.errors import InputError
from gemma_encoder.reports import plots, tables, verdict
from gemma_encoder.reports.html import Failure, check_html, page, to_html
from gemma_encoder.reports.mathml import mathml
from gemma_encoder.reports.tables import display_table, table_html
from gemma_encoder.reports.verdict import display_verdict, verdicts

PNG = base64.b64encode(b"\x89PNG").decode()
ALT = "A line that rises from left to right, from causal to bidirectional."


def report(*cells, title="A title", failure=None):
    return to_html(new_notebook(cells=list(cells)), title, failure)


def markdown(source):
    text = report(new_markdown_cell(source))
    return text[text.index("<main") :]


def output(data, metadata=None):
    return new_code_cell("x", outputs=[new_output("display_data", data=data, metadata=metadata or {})])


def problems(body):
    return check_html(page("title", f"<h1>title</h1>{body}"))


def test_a_whole_notebook_breaks_no_rule():
    text = report(
        new_markdown_cell("# Heading with $x^2$\n\n$$\\frac{a}{b}$$\n\nA [link](https://example.org)."),
        output({"image/png": PNG, "text/plain": "<Figure>"}, {"image/png": {"alt": ALT, "width": 640}}),
        output({"text/html": pd.DataFrame({"a": [1]}).to_html(), "text/plain": "a"}),
    )
    assert check_html(text) == []
    assert "<script" not in text
    assert text.startswith("<!DOCTYPE html>") and 'lang="en"' in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert 'class="skip"' in text
    assert len(text) < 60_000


def test_alt_text_reaches_the_image():
    text = report(
        output({"image/png": PNG}, {"image/png": {"alt": 'Says "more" & <more> in many words', "width": 640}})
    )
    [image] = re.findall(r"<img[^>]*>", text)
    assert "alt='Says \"more\" &amp; &lt;more&gt; in many words'" in image
    assert 'width="640"' in image and f"data:image/png;base64,{PNG}" in image


def test_an_image_without_alt_text_is_a_problem():
    assert check_html(report(output({"image/png": PNG}))) == [
        "image with alt text '', expected at least 15 characters of description"
    ]


def test_what_show_displays_is_what_the_page_shows(monkeypatch):
    calls = []
    monkeypatch.setattr(plots, "display", lambda data, **options: calls.append((data, options["metadata"])))
    plots.show(plots.matrix({"m": np.eye(2, dtype=bool)}, ["a", "b"]), ALT)
    text = report(output(*calls[0]))
    assert check_html(text) == [] and f'alt="{ALT}"' in text


def test_code_is_folded_and_outputs_are_not():
    text = report(new_code_cell("answer = 42", outputs=[new_output("stream", name="stdout", text="42\n")]))
    folded = re.search(r"<details class=\"code\">\s*<summary>code</summary>(.*?)</details>", text, re.DOTALL)
    assert "answer" in folded[1] and "<pre" in folded[1]
    assert re.search(r'<pre class="output" tabindex="0">42\n</pre>', text)


def test_given_parameters_are_named():
    cells = [new_code_cell("n = 1", metadata={"tags": [tag]}) for tag in ("parameters", "injected-parameters")]
    assert re.findall("<summary>(.*?)</summary>", report(*cells)) == ["parameters", "parameters given"]


def test_html_of_outputs_is_kept():
    frame = pd.DataFrame({"score": [57.25]}, index=["causal"])
    text = report(output({"text/html": frame.to_html(), "text/plain": "other"}))
    assert "<td>57.25</td>" in text and 'class="dataframe"' in text and "other" not in text


def test_output_that_needs_script_falls_back_to_text():
    text = report(output({"application/javascript": "alert(1)", "image/svg+xml": "<svg/>", "text/plain": "plain"}))
    assert "alert" not in text and "<svg" not in text and "plain" in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("$x^2$", '<math alttext="x^2" display="inline">'),
        ("$$x^2$$", '<math alttext="x^2" display="block">'),
        ("## Rate $p$", '<math alttext="p" display="inline">'),
        ("| a |\n|---|\n| $p$ |", '<td><math alttext="p"'),
        ("<details><summary>Why</summary>\n\nBecause $p$.\n\n</details>", '<math alttext="p"'),
        ("\\begin{cases} a \\\\ b \\end{cases}", "<mtable>"),
    ],
)
def test_tex_becomes_mathml(source, expected):
    text = markdown(source)
    assert expected in text and "$" not in text and "ns0:" not in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("`$x_1$ and $y_1$`", "<code>$x_1$ and $y_1$</code>"),
        ("```\nprice = '$a_b$'\n```", "price = '$a_b$'"),
        ("It costs \\$5 or \\$6.", "It costs $5 or $6."),
        ("It costs $5.", "It costs $5."),
    ],
)
def test_dollars_that_are_no_formula_stay(source, expected):
    text = markdown(source)
    assert expected in text and "<math" not in text
    assert check_html(report(new_markdown_cell(source))) == []


@pytest.mark.parametrize(
    "tex", [r"\nosuchcommand x", r"\frac{a}", r"\left( x", "}{", r"\begin{aligned} a &= b \end{aligned}"]
)
def test_a_formula_that_cannot_be_converted_raises(tex):
    with pytest.raises(InputError, match="cannot be converted to MathML") as error:
        markdown(f"$${tex}$$")
    assert repr(tex) in str(error.value)


def test_the_papers_formulas_convert():
    for tex in (
        r"\text{softmax}\left(\frac{QK^\top}{\sqrt{D}} + M\right)V",
        r"M_{ij} = \begin{cases} 0 & j \le i \\ -\infty & \text{otherwise} \end{cases}",
        r"\frac{1}{|m|}\sum_{t=1}^{L} m_t h_t \in \mathbb{R}^{D}",
        r"30 \tanh\left(\frac{x}{30}\right)",
    ):
        assert mathml(tex, display=True).startswith("<math ")


def test_the_notebooks_heading_heads_the_page_else_the_title():
    assert "<h1>A &lt;title&gt;</h1>" in report(new_markdown_cell("text"), title="A <title>")
    text = report(new_markdown_cell("# Own heading"))
    assert text.count("<h1") == 1 and "Own heading" in text


def test_a_failure_comes_first_and_links_to_its_cell():
    cell = new_code_cell("1/0", id="broken")
    text = report(new_markdown_cell("# Heading"), cell, failure=Failure("ZeroDivisionError: <zero>", "broken"))
    assert text.index("FAILED") < text.index("<h1")
    assert "ZeroDivisionError: &lt;zero&gt;" in text
    assert 'href="#cell-id=broken"' in text and 'id="cell-id=broken"' in text
    assert check_html(text) == []


def test_papermills_own_error_cells_are_left_out():
    banner = new_markdown_cell("<span>An Exception</span>", metadata={"tags": ["papermill-error-cell-tag"]})
    assert "An Exception" not in report(new_markdown_cell("# H"), banner)


@pytest.mark.parametrize(
    "body",
    [
        "<script>1</script>",
        '<img src="https://example.org/a.png" alt="a long enough description">',
        '<img src="//example.org/a.png" alt="a long enough description">',
        '<img src="figure.png" alt="a long enough description">',
        '<img src="data:image/png;base64,AA" alt="short">',
        '<img src="data:image/png;base64,AA">',
        '<img src="data:image/png;base64,AA" alt="No description has been provided for this image">',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<use xlink:href="https://example.org/a.svg#b"></use>',
        '<p onclick="run()">x</p>',
        '<a href="javascript:run()">x</a>',
        '<iframe src="data:text/html,x"></iframe>',
        "<style>@import 'a.css';</style>",
        "<style>p { background: url(https://example.org/a.png) }</style>",
        '<p style="background: url(https://example.org/a.png)">x</p>',
        '<section class="markdown"><p>left over $x_i$ here</p></section>',
        '<div class="output markdown"><div>a</div><p>left over $$a$$ here</p></div>',
        "<h1>a second heading</h1>",
    ],
)
def test_check_finds(body):
    assert problems(body)


@pytest.mark.parametrize(
    "body",
    [
        '<a href="https://example.org">a link</a>',
        '<img src="data:image/png;base64,AA" alt="a long enough description">',
        "<pre>$x_i$</pre>",
        "<code>$x_i$</code> and $5 or $6",
        '<svg><use href="#mark"></use></svg>',
        '<section class="markdown"><p>text</p></section><table><tr><td>from $5.10 (high = $7.30)</td></tr></table>',
    ],
)
def test_check_lets_pass(body):
    assert problems(body) == []


def test_check_wants_a_language():
    assert check_html("<h1>title</h1>") == ["no lang on <html>"]


def test_verdict_is_shown_and_carried(monkeypatch):
    calls = []
    monkeypatch.setattr(verdict, "display", lambda data, **options: calls.append(data))
    display_verdict("A < B", "supported", "by 3 points", {"difference": 3.00004, "p": float("nan")})
    notebook = new_notebook(cells=[new_markdown_cell("text"), output(calls[0])])
    assert verdicts(notebook) == [
        {"claim": "A < B", "verdict": "supported", "evidence": "by 3 points", "numbers": {"difference": 3.0, "p": None}}
    ]
    assert "<strong>✓ supported</strong>: A &lt; B" in to_html(notebook, "title")


def test_unknown_verdict_is_refused():
    with pytest.raises(InputError, match=r"'maybe'.*valid: cannot tell"):
        display_verdict("A", "maybe", "", {})


def test_table_has_caption_scopes_and_plain_text(monkeypatch):
    calls = []
    monkeypatch.setattr(tables, "display", lambda data, **options: calls.append(data))
    frame = pd.DataFrame(
        {"mask": ["causal <", "b"], "here": [84.449, np.nan], "n": [3, 4], "paper": ["not published here", ""]}
    )
    display_table(frame, "Scores & more (points)")
    html = calls[0]["text/html"]
    assert "<caption>Scores &amp; more (points)</caption>" in html
    assert html.count('<th scope="col"') == 4
    assert '<th scope="row" style="text-align: left">causal &lt;</th>' in html
    assert '<td style="text-align: right">84.4</td>' in html and ">3</td>" in html
    assert "84.4" in calls[0]["text/plain"] and "Scores" in calls[0]["text/plain"]


def test_a_heading_and_a_missing_number_stand_over_the_numbers_of_their_column():
    html = table_html(pd.DataFrame({"a": ["x", None], "b": [0.5, None], "c": [True, False]}), "caption")
    assert [part.partition('"')[0] for part in html.split("text-align: ")[1:]] == ["left", "right", "left"] * 3
    assert html.count(">–</t") == 2


def test_table_rows_are_headed_by_a_named_index():
    frame = pd.DataFrame({"score": [1.0]}, index=pd.Index(["mean"], name="pooling"))
    assert '<th scope="row" style="text-align: left">mean</th><td' in table_html(frame, "caption")


def test_the_foot_of_a_table_is_as_wide_as_the_table():
    html = table_html(pd.DataFrame({"a": [1], "b": [2]}), "caption", foot="seeds & split")
    assert '<tfoot><tr><td colspan="2">seeds &amp; split</td></tr></tfoot>' in html
    assert "tfoot" not in table_html(pd.DataFrame({"a": [1]}), "caption")


def test_a_table_without_caption_is_refused():
    with pytest.raises(InputError, match="caption"):
        display_table(pd.DataFrame({"a": [1]}), " ")
