"""The numbers of the literature: their schema, and that nothing unknown is ever shown as known."""

import pandas as pd
import pytest

from gemma_encoder.errors import InputError
from gemma_encoder.reports import published as literature
from gemma_encoder.reports.published import COLUMNS, FILES, FOLDER, MARKS, Published, published, value

TWO_B = "Gemma Encoder 2B"
KEYS = [column for column in COLUMNS if column not in ("value", "unit", "status", "confidence", "note")]


@pytest.mark.parametrize("name", FILES)
def test_schema(name):
    table = pd.read_csv(FOLDER / name, dtype=str, keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert set(table["status"]) <= {"known", "unknown"}
    assert set(table["confidence"]) <= {*MARKS, ""}
    assert set(table["attention"]) <= {"", "causal", "bidirectional"}
    assert set(table["pooling"]) <= {"", "mean", "last", "first", "attention", "attention-query", "attention-kv"}
    assert set(table["padding"]) <= {"", "left", "right"}
    for column in ("source_id", "work", "place", "model", "task", "metric", "split"):
        assert (table[column] != "").all(), column
    known = table["status"] == "known"
    assert ((table["value"] != "") == known).all()
    assert (table.loc[known, "confidence"] != "").all()
    assert (table.loc[known, "source_id"] != "none").all()
    limit = table.loc[known, "unit"].map({"points": 100.0, "fraction": 1.0})
    assert pd.to_numeric(table.loc[known, "value"]).between(0, limit).all()
    assert not table.duplicated(subset=KEYS).any()


@pytest.mark.parametrize("mark", ["A", "A-", "B", "C", "X"])
def test_readme_explains_every_mark_and_source(mark):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| {mark} |" in readme
    for source in published()["source_id"].unique():
        assert f"`{source}`" in readme


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"place": "Table 6", "attention": "causal", "pooling": "mean"}, 84.5),
        ({"place": "Table 6", "attention": "bidirectional", "pooling": "mean"}, 89.4),
        ({"place": "Table 5", "pooling": "last"}, 89.1),
        ({"place": "Table 5", "pooling": "attention"}, 89.0),
        ({"place": "Figure 2", "dropout": 0.0}, 87.2),
        ({"place": "Figure 2", "dropout": 0.1}, 89.4),
    ],
)
def test_the_papers_ablations(filters, expected):
    assert value(model=TWO_B, task="glue", **filters) == Published(expected, filters["place"], "B")


def test_text_names_place_and_confidence():
    causal = value(place="Table 6", model=TWO_B, attention="causal", pooling="mean")
    assert str(causal) == "84.5 (Table 6, second-hand [B])"


def test_what_is_inferred_is_marked_so():
    assert value(place="Table 6", model="Gemma Encoder 9B", attention="causal", pooling="mean").confidence == "C"


@pytest.mark.parametrize(
    "filters",
    [
        {"place": "Table 6", "model": TWO_B, "attention": "causal", "pooling": "last"},
        {"place": "Figure 2", "model": TWO_B, "dropout": 0.15},
        {"model": TWO_B, "task": "sst2"},
        {"model": "tiny", "task": "a task of ours"},
    ],
)
def test_unknown_is_said_in_words(filters):
    assert str(value(**filters)) == "not published here"


def test_one_value_in_three_places_is_one_value():
    found = value(model=TWO_B, task="glue", value=89.4)
    assert found == Published(89.4, "Table 5, Table 6, Figure 2", "B")


def test_ambiguous_filters_are_refused():
    with pytest.raises(InputError, match=r"several values: 89\.4 .*89\.1"):
        value(place="Table 5", model=TWO_B)


@pytest.mark.parametrize("filters", [{"pooler": "mean"}, {"place": "Table 66"}, {"metric": "acuracy"}])
def test_a_misspelt_filter_is_refused_with_the_valid_ones(filters):
    with pytest.raises(InputError, match="valid: "):
        published(**filters)


def test_the_table_cannot_be_changed_by_its_reader():
    table = published()
    table["value"] = 0.0
    assert value(place="Table 5", model=TWO_B, pooling="mean").value == 89.4


def test_reported_averages_follow_from_their_columns():
    glue = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
    for model in ("BERT-large", "RoBERTa-large", "DeBERTa-v3-large", "ModernBERT-large"):
        mean = sum(literature.value(model=model, task=task, split="dev").value for task in glue) / 8
        assert mean == pytest.approx(value(model=model, task="glue", split="dev").value, abs=0.11)
