"""What a notebook is given: by the profile, by the person, and what is refused before a kernel starts."""

import nbformat
import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config

from gemma_encoder.errors import InputError
from gemma_encoder.experiments.shapes import shape_of
from gemma_encoder.profiles import load_profile
from gemma_encoder.reports import notebooks
from gemma_encoder.reports.notebooks import notebook_names, parse
from gemma_encoder.reports.settings import check_inputs, given_parameters

CELL = """model = "tiny"  # a
data = "builtin"  # b
ranking_data = "builtin"  # c
tasks = ["cola"]  # d
seeds = [0]  # s
per_task = {}  # t
epochs = 3  # e
learning_rate = 0.002  # f
more = {}  # g
"""
PROFILE = {"model": "tiny", "data": "builtin", "tasks": ["cola"], "seeds": [0], "epochs": 3, "learning_rate": 0.002}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    cell = nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "05_mine.ipynb")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    for function in (notebooks.parameters, notebooks.full_name, notebooks.check):
        monkeypatch.setattr(function, "__defaults__", (tmp_path,))


def given(pairs=(), **profile):
    return given_parameters(["05_mine"], PROFILE | profile, pairs)["05_mine"]


def test_what_equals_the_default_of_the_notebook_is_not_given(folder):
    assert given() == {}


def test_a_setting_that_no_cell_declares_goes_into_more(folder):
    assert given(precision="bfloat16", epochs=5) == {"epochs": 5, "more": {"precision": "bfloat16"}}
    assert given(["precision=bfloat16", "warmup=0.2"]) == {"more": {"precision": "bfloat16", "warmup": 0.2}}


def test_what_a_person_says_goes_before_the_profile(folder):
    assert given(["epochs=1", "learning_rate=1e-4"], epochs=5) == {"epochs": 1, "learning_rate": 1e-4}


def test_a_setting_the_profile_leaves_out_is_the_default_of_a_run_not_of_the_notebook(folder):
    profile = {key: value for key, value in PROFILE.items() if key != "learning_rate"}
    assert given_parameters(["05_mine"], profile, [])["05_mine"] == {"learning_rate": 5e-4}


def test_data_with_lists_are_also_where_ranking_looks(folder, tmp_path):
    assert given([f"data={tmp_path}"]) == {"data": str(tmp_path)}
    assert given(["data=hub"]) == {"data": "hub", "ranking_data": "hub"}
    (tmp_path / "msmarco").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "msmarco" / f"{split}.jsonl").touch()
    assert given([f"data={tmp_path}"]) == {"data": str(tmp_path), "ranking_data": str(tmp_path)}
    assert given([f"data={tmp_path}", "ranking_data=builtin"]) == {"data": str(tmp_path)}


def test_what_can_only_be_a_text_is_taken_as_it_is(folder, tmp_path):
    (tmp_path / " 'my' #1 data ").mkdir()
    data = f"{tmp_path}/ 'my' #1 data "
    assert given([f"data={data}"]) == {"data": data}
    with pytest.raises(InputError, match="unknown precision 'float32 #1'"):  # a setting that goes into `more`
        given(["precision=float32 #1"])


def test_the_notebook_about_ranking_takes_a_data_folder_as_it_is_and_says_what_is_missing(tmp_path):
    found = given_parameters(["10_ranking"], load_profile("tiny"), [f"data={tmp_path}"])
    assert found == {"10_ranking": {"ranking_data": str(tmp_path)}}
    with pytest.raises(InputError, match="no task msmarco in "):
        check_inputs(found)


def test_the_first_notebook_says_what_it_lacks_before_a_kernel_starts(tmp_path):
    (tmp_path / "msmarco").mkdir()
    with pytest.raises(InputError, match="no task glue/cola in "):
        check_inputs(given_parameters(["00_start_here"], load_profile("tiny"), [f"data={tmp_path}"]))


@pytest.mark.parametrize("name", ["00_start_here", "10_ranking"])
def test_what_ranking_cannot_have_is_refused_before_a_kernel_starts(name):
    with pytest.raises(InputError, match="is not on the hub"):
        check_inputs({name: {"ranking_data": "hub", "ranking_task": "trec_dl"}})
    with pytest.raises(InputError, match="unknown setting 'precison'"):
        check_inputs({name: {"more": {"precison": "bfloat16"}}})
    with pytest.raises(
        InputError, match=f"more holds learning_rate; valid: as parameters of their own in notebook {name}"
    ):
        check_inputs({name: {"more": {"learning_rate": 0.1}}})


def test_the_tiny_profile_gives_every_notebook_its_defaults():
    assert not any(given_parameters(notebook_names(), load_profile("tiny"), []).values())


def test_every_notebook_that_trains_takes_all_settings():
    trains = [name for name in notebook_names() if "learning_rate" in notebooks.parameters(name)]
    assert {"00_start_here", "10_ranking"} < set(trains)
    for name in trains:
        assert {"more", "per_task", "train_examples"} <= set(notebooks.parameters(name)), name


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("epoch=2", "unknown setting 'epoch'"),
        ("epochs=two", "epochs 'two' is of type str; valid: int"),
        ("epochs=0", "epochs 0 is too small"),
        ("lora_alpha=16.0", "lora_alpha 16.0 with full fine-tuning"),
        ("tasks=[colla]", "unknown task 'colla'"),
        ("tasks=cola", "tasks 'cola' is not valid; valid: list of str"),
        ("tasks=3", "tasks 3 is not valid; valid: list of str"),
        ("tasks=[cola, cola]", "tasks ['cola', 'cola'] holds 'cola' more than once"),
        ("seeds=3", "seeds 3 is not valid; valid: list of int"),
        ("seeds=null", "seeds None is not valid; valid: list of int"),
        ("seeds=[0, 0]", "seeds [0, 0] holds 0 more than once"),
        ("more=3", "parameter 'more' takes dict, received 3"),
        ("per_task=3", "per_task 3 is not valid; valid: dict of dict"),
        ("learning_rate=.inf", "learning_rate inf is not valid; valid: a finite number"),
        ("epochs", "a setting is given as key=value, received 'epochs'"),
        ("notebooks=[05]", "unknown setting 'notebooks'; valid: attention"),
    ],
)
def test_what_no_run_can_have_is_refused(folder, pair, says):
    with pytest.raises(InputError) as caught:
        given([pair])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("own", "says"), [("{epoch: 2}", "unknown setting 'epoch'"), ("3", "per_task .* valid: dict of dict")]
)
def test_what_one_task_cannot_have_is_refused(own, says):
    with pytest.raises(InputError, match=says):
        given_parameters(["05_causal_vs_bidirectional"], load_profile("tiny"), [f"per_task={{qnli: {own}}}"])


@pytest.mark.parametrize("name", ["small", "gemma3-270m", "gemma2-2b", "gemma2-9b"])
def test_a_profile_drives_every_notebook_with_all_its_settings(name):
    profile = load_profile(name)
    for notebook, values in given_parameters(notebook_names(), profile, []).items():
        if "more" in notebooks.parameters(notebook):
            declared = notebooks.parameters(notebook)
            reached = {key: values.get(key, declared[key].default) for key in declared} | values.get("more", {})
            for key, value in profile.items():
                assert reached.get(key, value) == value, (notebook, key)
            assert not declared.keys() & reached["more"].keys(), "a setting given twice"
            assert "data" not in reached["more"]
            lora = {"lora_rank": 16, "lora_alpha": 32.0} if name == "gemma2-9b" else {}
            assert {key: reached["more"].get(key) for key in lora} == lora


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("05_causal_vs_bidirectional", {"more": {"pooling": "last"}}, "pooling cannot be set in notebook 05"),
        ("03_dropout", {"per_task": {"qnli": {"attention": "causal"}}}, "attention cannot be set in notebook 03"),
        ("03_dropout", {"rates": [0.1, 0.3]}, "valid: 0 and 0.1"),
        ("03_dropout", {"rates": [0.0, 0.1, 0.1]}, "and others once"),
        ("03_dropout", {"rates": [0.0, 0.1, 2.0]}, "rate 2.0"),
        ("05_causal_vs_bidirectional", {"per_task": {"qnli": 3}}, "valid: dict of dict"),
        ("05_causal_vs_bidirectional", {"per_task": {"nope": {"epochs": 2}}}, "unknown task 'nope'"),
        ("05_causal_vs_bidirectional", {"workers": -1}, "workers -1 is too small; valid: at least 0"),
        ("04_padding", {"margin": -1.0}, "margin -1.0 is too small"),
        ("08_glue", {"glue_tasks": ["copa"]}, "unknown task 'copa'"),
        ("09_superglue", {"superglue_tasks": ["cola"]}, "unknown task 'cola'"),
        ("10_ranking", {"ranking_task": "cola"}, "unknown ranking task 'cola'; valid: msmarco, trec_dl"),
    ],
)
def test_what_a_notebook_cannot_be_given_is_refused_before_a_kernel_starts(name, parameters, says):
    with pytest.raises(InputError) as caught:
        check_inputs({name: parameters})
    assert says in str(caught.value)


def test_a_model_that_cannot_be_adapted_is_refused_before_a_kernel_starts(tmp_path):
    GPT2Config(n_layer=1, n_embd=8, n_head=2).save_pretrained(tmp_path)
    save_file({"one": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="cannot adapt a 'gpt2' model; valid: "):
        check_inputs({"05_causal_vs_bidirectional": {"model": str(tmp_path)}})
    with pytest.raises(InputError, match="cannot adapt a 'gpt2' model; valid: "):
        shape_of(str(tmp_path))


def test_a_benchmark_takes_another_adaptation():
    check_inputs({"08_glue": {"more": {"pooling": "last", "attention": "causal"}, "glue_tasks": ["rte"]}})


def test_data_of_a_profile_are_those_of_ranking_too_where_it_has_lists(folder, tmp_path):
    (tmp_path / "msmarco").mkdir()
    for name in ("train", "validation"):
        (tmp_path / "msmarco" / f"{name}.jsonl").write_text('{"query": "a", "passages": []}\n')
    assert given([], data=str(tmp_path)) == given([f"data={tmp_path}"])
    assert given(["ranking_data=builtin"], data=str(tmp_path)) == {"data": str(tmp_path)}


def test_further_settings_of_one_notebook_stand_beside_its_own():
    assert parse("05", ["more={lora_rank: 4}"])["more"] == {"truncate": True, "lora_rank": 4}
    assert parse("05", ["more={truncate: false}"])["more"] == {"truncate": False}
