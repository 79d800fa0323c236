"""Pretraining: the same seed gives the same weights, the loss falls, and transformers loads the folder offline."""

from __future__ import annotations

import csv
import json
from functools import partial
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gemma_encoder.errors import InputError
from gemma_encoder.experiments import pretrain as pretrain_module
from gemma_encoder.experiments.muon import Muon, orthogonal
from gemma_encoder.experiments.pretrain import (
    CURVE,
    Stage,
    learning_rate,
    make_decoder,
    optimizers,
    packed,
    pretrain,
)
from gemma_encoder.experiments.probes import agreement_pairs, answer_accuracy, knowledge, questions
from gemma_encoder.paths import DATA
from gemma_encoder.tasks.world import documents

TINY = DATA / "models" / "tiny"
STAGES = (Stage("full", steps=6, batch=4, peak=8e-3), Stage("comparing", steps=2, batch=3, peak=4e-3))
MICRO = {"stages": STAGES, "vocab_size": 400, "shape": (2, 32, 48), "fast": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pretrained") / "micro", seed=3, log=lambda line: None, **MICRO)


def _curve(folder):
    with open(folder / "training_curve.csv", newline="") as file:
        return list(csv.DictReader(file))


def _load(path):
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, local_files_only=True
    ), AutoTokenizer.from_pretrained(path, local_files_only=True)


def test_the_same_seed_gives_the_same_files(folder, tmp_path):
    again = pretrain(tmp_path / "again", seed=3, log=lambda line: None, **MICRO)
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in folder.iterdir())
    for name in ("tokenizer.json", "training_curve.csv", "pretraining.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    mine, theirs = (load_file(path / "model.safetensors") for path in (again, folder))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)


def test_another_seed_gives_other_weights(folder, tmp_path):
    other = pretrain(tmp_path / "other", seed=4, log=lambda line: None, **{**MICRO, "stages": STAGES[1:]})
    name = "model.embed_tokens.weight"
    assert not torch.equal(load_file(other / "model.safetensors")[name], load_file(folder / "model.safetensors")[name])


def test_the_loss_falls_and_the_record_is_whole(folder):
    rows = _curve(folder)
    assert tuple(rows[0]) == CURVE
    assert [(int(row["stage"]), int(row["step"])) for row in rows] == [
        *((1, step) for step in range(1, 7)),
        (2, 1),
        (2, 2),
    ]
    assert float(rows[5]["validation_loss"]) < float(rows[0]["validation_loss"])
    facts = json.loads((folder / "pretraining.json").read_text())
    assert (facts["seed"], facts["tokens"]) == (3, (6 * 4 + 2 * 3) * 128)
    assert [stage["mix"] for stage in facts["stages"]] == ["full", "comparing"]


def test_a_second_stage_begins_from_the_weights_as_saved(folder, tmp_path):
    first = pretrain(tmp_path / "first", seed=3, log=lambda line: None, **{**MICRO, "stages": STAGES[:1]})
    still = Stage("comparing", steps=1, batch=3, peak=1e-12)
    both = pretrain(tmp_path / "both", seed=3, log=lambda line: None, **{**MICRO, "stages": (STAGES[0], still)})
    saved, went_on = (load_file(path / "model.safetensors") for path in (first, both))
    assert all(torch.equal(saved[name], went_on[name]) for name in saved)
    assert not torch.equal(saved["model.norm.weight"], load_file(folder / "model.safetensors")["model.norm.weight"])


def test_an_existing_folder_is_never_overwritten(folder):
    with pytest.raises(InputError, match="exists"):
        pretrain(folder)
    with pytest.raises(InputError, match="steps 0"):
        pretrain(folder.with_name("new"), stages=[Stage("full", steps=0, batch=1, peak=1e-3)])


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_module, "make_tokenizer", lambda *given: pytest.fail("began first"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        pretrain(tmp_path / "file" / "out")


def test_every_weight_has_one_optimizer():
    model = make_decoder(300, 0, 2, 32, 48)
    muon, adam = optimizers(model, 1e-3)
    held = [weight for group in (*muon.param_groups, *adam.param_groups) for weight in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    assert len(muon.param_groups[0]["params"]) == 2 * 7
    assert [group["weight_decay"] for group in adam.param_groups] == [0.05, 0.0]


def test_the_schedule_warms_up_and_decays():
    rates = [learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert max(rates) == 1.0 and rates.index(1.0) in (99, 100)
    assert rates[:100] == sorted(rates[:100]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert 0.02 <= rates[-1] < 0.021


def test_the_tokenizer_puts_one_bos_and_keeps_column_names_whole(folder):
    for path in (folder, TINY):
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        ids = tokenizer("Anna pushed Tom.")["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id not in ids and tokenizer.padding_side == "right"
        assert tokenizer.convert_tokens_to_ids(["<pad>", "<bos>", "<eos>", "<unk>"]) == [0, 1, 2, 3]
        text = "Ünïcode 日本, too: 3 cups\n"
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    pieces = tokenizer.tokenize("sentence1: Anna pushed Tom. sentence2: Tom")
    assert len(pieces) == 11, pieces


def test_rows_are_documents_laid_end_to_end(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = packed(tokenizer, seed=3)
    first = torch.cat([next(rows) for _ in range(8)])
    assert first[0] == tokenizer.bos_token_id
    text = tokenizer(f" {next(documents(3))}")["input_ids"]
    assert first[: len(text)].tolist() == text
    easier = torch.cat([row for _, row in zip(range(4), packed(tokenizer, seed=3, beginning=99), strict=False)])
    assert " in the story?" in tokenizer.decode(easier)
    ends = (first[:-1] == tokenizer.eos_token_id).nonzero().flatten()
    assert len(ends) > 3 and (first[ends + 1] == tokenizer.bos_token_id).all()
    whole = torch.stack(list(islice(packed(tokenizer, seed=3, whole=True), 20)))
    assert (whole[:, 0] == tokenizer.bos_token_id).all() and whole.shape == (20, 128)
    assert torch.equal(whole[0], first[:128]) and len(whole.unique(dim=0)) == 20


def test_the_committed_decoder_is_a_small_gemma_2():
    model, _ = _load(TINY)
    config = model.config
    assert config.model_type == "gemma2" and set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config.num_key_value_heads < config.num_attention_heads and config.tie_word_embeddings
    assert config.query_pre_attn_scalar == config.head_dim
    assert sum(path.stat().st_size for path in TINY.iterdir()) < 4 * 2**20
    facts = json.loads((TINY / "pretraining.json").read_text())
    assert facts["parameters"] == model.num_parameters()
    full = [float(row["validation_loss"]) for row in _curve(TINY) if row["stage"] == "1"]  # of the mix it trains on
    assert full[-1] < full[0] / 2
    assert facts["loss"] < float(_curve(TINY)[0]["loss"])


def test_the_committed_decoder_knows_its_world_and_a_fresh_one_does_not(folder):
    known, fresh = _load(TINY), _load(folder)
    assert answer_accuracy(*known, count=100)["all"] > answer_accuracy(*fresh, count=100)["all"] + 0.3
    shares = knowledge(str(TINY))
    assert shares["agreement"] > 97 and shares["answers"] >= 90
    assert 100 * answer_accuracy(*known)["all"] == pytest.approx(shares["answers"])


def test_probe_pairs_differ_in_one_word():
    for _, (right, wrong) in zip(range(20), agreement_pairs(0), strict=False):
        assert sum(x != y for x, y in zip(right.split(), wrong.split(), strict=True)) == 1
    story, answer = next(questions(0))
    assert story.endswith("?") and answer.endswith(".")


def test_the_answer_probe_agrees_with_step_by_step_decoding():
    model, tokenizer = _load(TINY)
    source = questions(0)
    right = []
    for _ in range(50):
        story, answer = next(source)
        ids = torch.tensor([tokenizer(story)["input_ids"]])
        wanted = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(wanted), do_sample=False)
        right.append(out[0, ids.shape[1] :].tolist() == wanted)
    assert sum(right) / 50 == pytest.approx(answer_accuracy(model, tokenizer, count=50)["all"])


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_muon_is_that_of_torch_but_for_its_rounding(shape):
    torch.manual_seed(0)
    start, grads = torch.randn(shape), torch.randn(3, *shape)
    results = []
    for maker in (partial(torch.optim.Muon, adjust_lr_fn="match_rms_adamw"), Muon):
        weight = torch.nn.Parameter(start.clone())
        optimizer = maker([weight], lr=0.1, weight_decay=0.05)
        for grad in grads:
            weight.grad = grad.clone()
            optimizer.step()
        results.append(weight.detach() - start)
    assert torch.linalg.norm(results[0] - results[1]) < 0.05 * torch.linalg.norm(results[0])  # it works in bfloat16


def test_an_orthogonal_update_has_singular_values_near_one():
    torch.manual_seed(0)
    assert (torch.linalg.svdvals(orthogonal(torch.randn(40, 24))) - 1).abs().max() < 0.35
