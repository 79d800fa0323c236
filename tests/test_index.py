"""The index page: verdicts first, failures plain to see, nothing about the machine."""

import re

import pytest

from gemma_encoder.errors import CommandFailed
from gemma_encoder.reports import index as index_module
from gemma_encoder.reports.html import check_html
from gemma_encoder.reports.index import without_paths, write_index
from gemma_encoder.reports.runner import Result

VERDICT = {"claim": "Bidirectional beats causal", "verdict": "supported", "evidence": "by 3.1 points", "numbers": {}}


@pytest.fixture
def index(tmp_path):
    good = Result(
        "05_masks",
        "ok",
        tmp_path / "out" / "05_masks.html",
        tmp_path / "x",
        61.2,
        verdicts=[VERDICT],
        parameters={"n": 3},
    )
    bad = Result(
        "06_<bad>", "failed", tmp_path / "out" / "b.html", None, 2.0, f"OSError: no {tmp_path}/data/x.json & more"
    )
    lost = Result("07_lost", "failed", None, None, 1.0, "killed")
    facts = {"profile": "tiny", "data": tmp_path / "datasets"}
    write_index([good, bad, lost], tmp_path / "index.html", "Reports", facts)
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def test_it_keeps_the_rules_of_reports(index):
    assert check_html(index) == []


def test_verdicts_come_before_reports_before_environment(index):
    order = [
        index.index(text) for text in ("Bidirectional beats causal", "<h2>Reports", "<h2>Parameters and env", "torch")
    ]
    assert order == sorted(order)
    assert "✓ supported" in index and "by 3.1 points" in index


def test_failures_are_told(index):
    assert "3 reports, 2 failed." in index
    assert index.count('class="status-failed">failed') == 2
    assert "07_lost (not written)" in index
    assert "06_&lt;bad&gt;" in index and "&amp; more" in index


def test_links_are_relative(index):
    assert set(re.findall(r'<a href="([^"#]+)"', index)) == {"out/05_masks.html", "out/b.html"}


def test_no_absolute_path_is_shown(index, tmp_path):
    assert str(tmp_path) not in index
    assert "…/x.json" in index and "…/datasets" in index


def test_parameters_versions_and_times_are_shown(index):
    assert "1 min 01 s" in index
    assert re.search(r'<th scope="row"[^>]*>05_masks</th><td[^>]*>n</td><td[^>]*>3</td>', index)
    assert re.search(r'<th scope="row"[^>]*>python</th><td[^>]*>3\.\d+', index)
    assert re.search(r'<th scope="row"[^>]*>transformers</th><td[^>]*>\d', index)


def test_without_verdicts_it_says_so(tmp_path):
    write_index([Result("00_start", "ok", tmp_path / "a.html", None, 1.0)], tmp_path / "index.html", "Reports", {})
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "No report gave a verdict." in text and "1 reports" not in text
    assert "Every report ran with its default parameters." in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/someone/data/sst2", "…/sst2"),
        ("no file '/a/b c", "no file '…/b c"),
        (r"C:\Users\someone\data", "…/data"),
        ("/home/jane doe/my data/glue", "…/glue"),
        (r"C:\Users\Jane van Doe\data", "…/data"),
        ("no /home/a/x.json and /home/b/y.json", "no …/x.json and …/y.json"),
        ("see file:///home/jane/my%20data/x or not", "see …/x or not"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("causal and/or mean/last", "causal and/or mean/last"),
        ("data/tasks/sst2", "data/tasks/sst2"),
    ],
)
def test_paths_are_cut_and_nothing_else(text, expected):
    assert without_paths(text) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/srv/x/bob (lab)/data", "…/data"),
        ("/srv/#bob/private/x", "…/x"),
        ("/home/bob's/data", "…/data"),
        ("/home/o&m/secret/x/", "…/x"),
        ("~/bob, private/x", "…/x"),
        ("C:\\Users\\bob & co\\data", "…/data"),
        ("owner/model@v1", "owner/model@v1"),
    ],
)
def test_a_path_alone_is_cut_whatever_its_folders_are_called(value, shown, tmp_path):
    result = Result("05", "ok", tmp_path / "05.html", None, 1.0, parameters={"model": value})
    write_index([result], tmp_path / "index.html", "Reports", {"data": value})
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count(f">{shown}</td>") == 2


def test_a_page_that_breaks_the_rules_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "check_html", lambda text: ["a script"])
    with pytest.raises(CommandFailed, match="breaks the rules for reports: a script"):
        write_index([], tmp_path / "index.html", "Reports", {})
    assert list(tmp_path.iterdir()) == []


def test_a_verdict_given_twice_is_shown_once_with_both_reports(tmp_path):
    twice = [Result(n, "ok", tmp_path / f"{n}.html", None, 1.0, verdicts=[dict(VERDICT)]) for n in ("05", "07")]
    write_index(twice, tmp_path / "index.html", "Reports", {})
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("Bidirectional beats causal") == 1
    assert re.findall(r'Report: <a href="(05.html)">[^<]*</a>, <a href="(07.html)"', text) == [("05.html", "07.html")]
