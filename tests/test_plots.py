"""Figures: alt text travels with them, and they show what they claim."""

import base64

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gemma_encoder.errors import InputError
from gemma_encoder.reports import plots
from gemma_encoder.reports.statistics import summary

ALT = "A lower triangle: every token sees itself and what came before it, and nothing after."


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(plots, "display", lambda data, **options: calls.append((data, options)))
    return calls


@pytest.fixture
def frame():
    rows = [(v, p, s, 80 + 2 * s + (v == "b")) for v in "ab" for p in ("mean", "last") for s in range(3)]
    return pd.DataFrame(rows, columns=["variant", "pooling", "seed", "score"])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(fig):
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_show_displays_a_png_with_alt_text_and_closes_the_figure(shown):
    fig = plots.matrix({"causal": np.tril(np.ones((3, 3), bool))}, ["a", "b", "c"])
    plots.show(fig, ALT)
    [(data, options)] = shown
    assert set(data) == {"image/png", "text/plain"}
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert options["metadata"]["image/png"]["alt"] == ALT
    assert not plt.fignum_exists(fig.number)


def test_the_same_figure_gives_the_same_bytes(shown, frame):
    for _ in range(2):
        plots.show(plots.means_with_intervals(frame, colour="pooling"), ALT)
    assert shown[0][0] == shown[1][0]


@pytest.mark.parametrize("alt", ["", "a figure", " " * 60])
def test_short_alt_text_is_refused(shown, alt):
    with pytest.raises(InputError, match="at least 40 characters"):
        plots.show(plt.figure(), alt)
    assert not shown


def test_means_show_every_seed_the_interval_and_the_published_value(frame):
    fig = plots.means_with_intervals(frame, colour="pooling", published={("a", "mean"): 84.5, ("b", "mean"): None})
    ax = fig.axes[0]
    of = summary([80, 82, 84])
    lines = [np.asarray(line.get_xdata(), float).ravel().tolist() for line in ax.lines]
    assert [80, 82, 84] in lines
    assert [of.low, of.high] in lines
    assert [84.5] in lines
    assert texts(fig).count("paper 84.5") == 1
    assert sum(text.startswith("paper") for text in texts(fig)) == 1
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "score (points)"


def test_one_seed_draws_a_point_without_an_interval():
    fig = plots.means_with_intervals(pd.DataFrame({"variant": ["a"], "score": [80.0]}))
    assert all(len(line.get_xdata()) == 1 for line in fig.axes[0].lines)


def test_more_groups_than_colours_are_refused(frame):
    frame["pooling"] = range(len(frame))
    with pytest.raises(InputError, match="6 colours apart, received 12"):
        plots.means_with_intervals(frame, colour="pooling")


def test_matrix_labels_both_axes_with_tokens():
    tokens = ["<bos>", "not", "bad"]
    panels = {"causal": np.tril(np.ones((3, 3), bool)), "bidirectional": np.ones((3, 3), bool)}
    fig = plots.matrix(panels, tokens, meaning=("hidden", "visible"))
    assert [ax.get_title() for ax in fig.axes] == ["causal", "bidirectional"]
    for ax in fig.axes:
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("attends to", "query token")
        assert [label.get_text() for label in ax.get_xticklabels()] == tokens
        assert [label.get_text() for label in ax.get_yticklabels()] == tokens
    np.testing.assert_array_equal(fig.axes[0].images[0].get_array(), panels["causal"])
    assert [text.get_text() for text in fig.legends[0].texts] == ["visible", "hidden"]


def test_heat_maps_share_one_scale_with_a_unit():
    fig = plots.matrix({"a": np.full((2, 2), 0.2), "b": np.full((2, 2), 0.8)}, ["x", "y"], unit="weight")
    assert [ax.images[0].get_clim() for ax in fig.axes[:2]] == [(0, 0.8), (0, 0.8)]
    assert fig.axes[2].get_xlabel() == "weight"


@pytest.mark.parametrize("panels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [bool, float])
def test_every_title_lies_inside_its_figure(panels, kind):
    tokens = [str(at) for at in range(14)]
    fig = plots.matrix({f"panel {at}": np.ones((14, 14), kind) for at in range(panels)}, tokens)
    fig.draw_without_rendering()
    tops = [ax.title.get_window_extent().y1 for ax in fig.axes if ax.get_title()]
    assert len(tops) == panels and max(tops) <= fig.bbox.y1


def test_long_sentences_thin_out_their_labels():
    fig = plots.matrix({"m": np.ones((100, 100), bool)}, [f"t{k}" for k in range(100)])
    assert len(fig.axes[0].get_xticks()) <= plots.MAX_TICKS


def test_a_panel_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"shape \(3, 3\), received \{'causal': \(2, 2\)\}"):
        plots.matrix({"causal": np.ones((2, 2), bool)}, ["a", "b", "c"])


def test_tokens_with_dollars_are_drawn_as_they_are(shown):
    fig = plots.matrix({"m": np.eye(3)}, ["$x_$", "$", r"$\foo$"])
    plots.show(fig, ALT)
    assert len(shown) == 1
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == [r"\$x_\$", r"\$", r"\$\foo\$"]
