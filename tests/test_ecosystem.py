"""Next to other libraries: pipelines, PEFT and sentence-transformers give what we give ourselves."""

import json
from copy import deepcopy

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, pipeline

from gemma_encoder import (
    GemmaEncoder,
    GemmaEncoderForRanking,
    GemmaEncoderForSequenceClassification,
    GemmaEncoderForTokenClassification,
    InputError,
    check_visibility,
    embed,
    predict,
    rank,
)
from gemma_encoder.errors import VisibilityError
from gemma_encoder.export import export_cross_encoder, export_sentence_transformer
from gemma_encoder.lora import add_lora, base_digest, load_lora, merge_lora, save_lora
from gemma_encoder.proofs import verify

TEXTS = ["A plane is taking off.", "Yes", " It rains, and it rains. ", "A", "Who is it?"]
PAIRS = [("A plane is taking off.", "An air plane."), ("No. ", " Yes, it is."), ("x", "y")]
COLUMNS = pytest.mark.parametrize("columns", [(), ("premise", "hypothesis")], ids=["plain", "columns"])
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer


@pytest.fixture
def decoder(tiny_decoder, tokenizer):
    """Function `(family, **overrides)`: a decoder with the vocabulary of the tokenizer; the same at every call."""
    return lambda family="gemma2", **overrides: tiny_decoder(
        family, vocab_size=len(tokenizer), max_position_embeddings=256, **overrides
    )


def adapted(kind, decoder, **settings):
    """A model whose pooler and head are large enough for its answers to differ."""
    torch.manual_seed(2)
    model = kind.from_decoder(decoder, **settings)
    for name, parameter in model.named_parameters():
        if "backbone." not in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


# transformers


def test_a_text_classification_pipeline_equals_predict(decoder, tokenizer, tmp_path):
    names = {0: "no", 1: "maybe", 2: "yes"}
    adapted(GemmaEncoderForSequenceClassification, decoder(), id2label=names).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for loaded in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        texts = [text.strip() for text in TEXTS]
        chances = predict(model, tokenizer, texts).softmax(dim=1)
        found = pipeline("text-classification", model=model, tokenizer=loaded, top_k=None)(texts, batch_size=2)
        for row, answers in zip(chances, found, strict=True):
            scores = {answer["label"]: answer["score"] for answer in answers}
            assert [scores[name] for name in names.values()] == pytest.approx(row.tolist(), abs=1e-5)


def test_a_pipeline_gives_the_number_of_a_regression(decoder, tokenizer):
    model = adapted(GemmaEncoderForSequenceClassification, decoder(), num_labels=1)
    (found,) = pipeline("text-classification", model=model, tokenizer=tokenizer)(["Yes"])
    assert found["score"] == pytest.approx(predict(model, tokenizer, ["Yes"]).item(), abs=1e-5)


def test_a_pipeline_that_puts_two_bos_into_a_pair_is_refused(decoder, tokenizer):
    model = adapted(GemmaEncoderForSequenceClassification, decoder())
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert classify({"text": "Yes"})["label"] == f"LABEL_{predict(model, tokenizer, ['Yes']).argmax()}"
    with pytest.raises(
        InputError,
        match=r"rows \[0\] hold a BOS behind .*; valid: one, in front, as predict\(\) puts it",
    ):
        classify({"text": PAIRS[0][0], "text_pair": PAIRS[0][1]})
    assert predict(model, tokenizer, PAIRS).shape == (3, 2)
    ids, mask = torch.tensor([[9, 2, 2, 7], [2, 9, 8, 2]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    with pytest.raises(InputError, match=r"rows \[0\] hold a BOS behind"):
        model(ids, mask)


def test_a_step_under_accelerate_is_the_plain_step(decoder, make_batch):
    batch, labels, updates = make_batch([7, 4, 1]), torch.tensor([0, 1, 2]), []
    for accelerator in (None, Accelerator(cpu=True)):
        model = adapted(GemmaEncoderForSequenceClassification, decoder(), num_labels=3).train()
        optimizer, before = torch.optim.SGD(model.parameters(), lr=0.1), weights_of(model)
        if accelerator:
            model, optimizer = accelerator.prepare(model, optimizer)
        torch.manual_seed(4)
        loss = model(*batch, labels).loss
        accelerator.backward(loss) if accelerator else loss.backward()
        optimizer.step()
        plain = accelerator.unwrap_model(model) if accelerator else model
        updates.append({name: value - before[name] for name, value in weights_of(plain).items()})
    assert max(update.abs().max().item() for update in updates[0].values()) > 1e-3
    torch.testing.assert_close(updates[0], updates[1], atol=0, rtol=0)


def test_return_dict_gives_a_tuple_of_the_same(decoder, make_batch):
    batch = make_batch([5, 3])
    model = adapted(GemmaEncoderForSequenceClassification, decoder())
    assert torch.equal(model(*batch, return_dict=False)[0], model(*batch).logits)
    assert torch.equal(model.encoder(*batch, return_dict=False)[1], model.encoder(*batch).pooler_output)


# PEFT


def with_adapter(decoder, kind=GemmaEncoderForSequenceClassification, steps=3, **settings):
    """A model with LoRA, changed by some steps of training, in eval mode; and its logits before training."""
    model = add_lora(adapted(kind, decoder, **settings), rank=4)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    shape = (2, 2, 6) if kind is GemmaEncoderForRanking else (4, 6)
    ids, labels = torch.randint(3, 90, shape), torch.tensor([0, 1] if len(shape) == 3 else [0, 1, 1, 0])
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_a_new_adapter_changes_nothing_and_training_leaves_the_decoder_alone(decoder, make_batch):
    batch = dict(zip(("input_ids", "attention_mask"), make_batch([7, 4]), strict=True))
    plain = adapted(GemmaEncoderForSequenceClassification, decoder(), pooling="kv-probe")
    before, digest = plain(**batch).logits, base_digest(plain.encoder.backbone)
    model = add_lora(plain, rank=4).eval()
    torch.testing.assert_close(model(**batch).logits, before, atol=0, rtol=0)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2 if "head" in name else 3] for name in trainable} == {"head", "pool", "backbone"}
    assert all("lora_" in name for name in trainable if "backbone" in name)
    assert sum("lora_A" in name for name in trainable) == 4 * 7, "seven linear layers in each of four"

    trained = with_adapter(decoder(), pooling="kv-probe")
    moved = {name for name, value in weights_of(trained).items() if not torch.equal(value, weights_of(model)[name])}
    assert base_digest(trained.encoder.backbone) == digest
    assert any("lora_B" in name for name in moved)
    assert any("head" in name for name in moved) and any("pool" in name for name in moved)
    check_visibility(trained.get_base_model())


@TYPES
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (GemmaEncoderForSequenceClassification, {"num_labels": 3, "pooling": "query-probe", "attention": "causal"}),
        (GemmaEncoderForRanking, {"ranking_loss": "pointwise_logistic", "pooling": "last"}),
    ],
)
def test_an_adapter_comes_back_equal_with_pooler_head_and_settings(decoder, tokenizer, tmp_path, kind, settings, dtype):
    model = with_adapter(decoder(), kind, dtype=dtype, **settings)
    untrained = with_adapter(decoder(), kind, steps=0, dtype=dtype, **settings)
    before = predict(model, tokenizer, TEXTS)
    assert (before - predict(untrained, tokenizer, TEXTS)).abs().max() > 1e-2
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    save_lora(model, adapter)
    decoder().save_pretrained(base)
    assert not any("embed_tokens" in name for name in load_file(adapter / "adapter_model.safetensors"))
    loaded = load_lora(adapter, base).eval()
    assert type(loaded.get_base_model()) is kind
    assert {name: getattr(loaded.config, name) for name in settings} == settings
    assert torch.equal(predict(loaded, tokenizer, TEXTS), before)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    again = load_lora(adapter, base, trainable=True)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox"])
def test_a_merged_adapter_is_a_plain_model_of_the_same_answers(decoder, tokenizer, tmp_path, family):
    model = with_adapter(decoder(family), num_labels=3, pooling="kv-probe")
    before = predict(model, tokenizer, TEXTS)
    merged = merge_lora(model)
    assert type(merged) is GemmaEncoderForSequenceClassification
    assert not any("lora" in name or "modules_to_save" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(predict(merged, tokenizer, TEXTS), before, atol=1e-5, rtol=1e-5)
    merged.save_pretrained(tmp_path)
    loaded = GemmaEncoderForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(predict(loaded, tokenizer, TEXTS), predict(merged, tokenizer, TEXTS))


def test_a_merge_says_by_how_much_answers_move(decoder, capsys, monkeypatch):
    merge_lora(with_adapter(decoder()))
    said = capsys.readouterr().out
    assert "merged in float32, kept in float32" in said
    assert float(said.rsplit(" ", 1)[1]) < 1e-5
    model = with_adapter(decoder())
    monkeypatch.setattr(model.base_model, "merge_and_unload", model.base_model.unload)  # the adapter is lost
    merge_lora(model)
    assert float(capsys.readouterr().out.rsplit(" ", 1)[1]) > 1e-3


def test_a_task_type_of_peft_is_refused_because_it_would_lose_the_head(decoder):
    plain = adapted(GemmaEncoderForSequenceClassification, decoder())
    model = get_peft_model(plain, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
    assert not any("head" in name for name, value in model.named_parameters() if value.requires_grad)
    with pytest.raises(InputError, match=r"use gemma_encoder\.lora\.add_lora"):
        model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([1]))


def test_a_merge_in_bfloat16_rounds_once(decoder):
    """Every merged weight is the float32 sum of base and adapter, rounded to bfloat16."""
    model = with_adapter(decoder(), dtype=torch.bfloat16)
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }
    expected = {
        name: (
            layer.base_layer.weight.float()
            + layer.scaling["default"]
            * (layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float())
        ).to(torch.bfloat16)
        for name, layer in layers.items()
    }
    merged = merge_lora(model)
    types = {parameter.dtype for name, parameter in merged.named_parameters() if not name.startswith("head.")}
    assert types == {torch.bfloat16}
    assert merged.encoder.backbone.rotary_emb.inv_freq.dtype == torch.float32
    assert len(expected) == 28
    for name, weight in expected.items():
        assert torch.equal(merged.get_submodule(name).weight, weight)


def test_a_merged_model_can_be_trained_whatever_its_pooler_and_type(decoder, capsys):
    model = with_adapter(decoder(), steps=0, pooling="last-80", dtype=torch.float64)
    merged = merge_lora(model)
    assert "merged in float64, kept in float64" in capsys.readouterr().out
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": 0}, "rank 0 is not valid; valid: an integer >= 1"),
        ({"alpha": float("nan")}, "alpha nan is not valid; valid: a finite number > 0"),
        ({"alpha": 0}, "alpha 0 is not valid; valid: a finite number > 0"),
        ({"alpha": "32"}, "alpha '32' is not valid; valid: a finite number > 0"),
    ],
)
def test_a_wrong_setting_of_an_adapter_and_a_second_one_are_named(decoder, tokenizer, tmp_path, settings, says):
    model = adapted(GemmaEncoderForSequenceClassification, decoder())
    with pytest.raises(InputError, match=says):
        add_lora(model, **settings)
    lora = add_lora(model)
    assert not any(module.training for module in lora.modules()), "the mode it was in"
    for again in (lora, model):
        with pytest.raises(InputError, match="with an adapter; valid: a model without one"):
            add_lora(again)
        for export in (export_cross_encoder, export_sentence_transformer):
            with pytest.raises(InputError, match=r"a model with LoRA .*; valid: what merge_lora\(\) gives"):
                export(again, tokenizer, tmp_path / "out")


def test_a_loaded_base_is_converted_to_the_type_of_the_adapter(decoder, tokenizer, tmp_path):
    model = with_adapter(decoder(), dtype=torch.bfloat16)
    save_lora(model, tmp_path)
    loaded = load_lora(tmp_path, decoder())
    assert torch.equal(predict(loaded, tokenizer, TEXTS), predict(model, tokenizer, TEXTS))


def test_another_base_is_refused(decoder, tmp_path):
    save_lora(with_adapter(decoder()), tmp_path / "adapter")
    other = decoder()
    with torch.no_grad():
        next(other.parameters())[5, 0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    decoder().save_pretrained(tmp_path / "base")
    load_lora(tmp_path / "adapter", tmp_path / "base")
    digest = json.loads((tmp_path / "adapter" / "base.json").read_text())["digest"][:12]
    with pytest.raises(InputError, match=f"belongs to a base of digest {digest}; this one has"):
        load_lora(tmp_path / "adapter", tmp_path / "other")
    with pytest.raises(InputError, match="belongs to a base of digest"):
        load_lora(tmp_path / "adapter", decoder("llama"))
    with pytest.raises(InputError, match=r"has no base\.json; valid: what save_lora wrote"):
        load_lora(tmp_path / "base", decoder())


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("base.json", "{}", "cannot read base.json of adapter"),
        ("base.json", "{", "cannot read base.json of adapter"),
        ("base.json", '{"digest": "0", "dtype": "float99"}', "cannot read base.json of adapter"),
        ("adapter_config.json", "{", "cannot read the adapter in"),
        ("adapter_model.safetensors", "cut off", "cannot read the adapter in"),
    ],
)
def test_a_broken_file_of_an_adapter_is_one_line(decoder, tmp_path, file, content, says):
    save_lora(with_adapter(decoder()), tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=says):
        load_lora(tmp_path, decoder())


def test_an_adapter_without_its_head_is_refused(decoder, tmp_path):
    save_lora(with_adapter(decoder()), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if "head.out" not in name}, path)
    with pytest.raises(InputError, match=r"lacks weights .*head"):
        load_lora(tmp_path, decoder())


def test_trainer_trains_an_adapter_and_accumulation_keeps_the_update(decoder, tmp_path):
    rows = [{"input_ids": torch.randint(3, 90, (6,)), "labels": torch.tensor(i % 3)} for i in range(8)]
    updates = []
    for size, accumulation in ((8, 1), (2, 4)):
        settings = {"num_labels": 3, "attention_dropout": 0, "ffn_dropout": 0}
        torch.manual_seed(3)
        model = add_lora(adapted(GemmaEncoderForSequenceClassification, decoder(), **settings), rank=4)
        before = weights_of(model)
        arguments = TrainingArguments(
            tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
            optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0, use_cpu=True,
            save_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train()
        updates.append({name: value - before[name] for name, value in weights_of(model).items()})
    assert max(update.abs().max().item() for update in updates[0].values()) > 1e-3
    torch.testing.assert_close(updates[0], updates[1], atol=2e-6, rtol=0)


def test_vectors_and_proofs_of_a_model_with_an_adapter(decoder, tokenizer):
    for kind in (GemmaEncoder, GemmaEncoderForSequenceClassification):
        plain = adapted(kind, decoder(), pooling="kv-probe")
        before = embed(plain, tokenizer, TEXTS)
        model = add_lora(plain, rank=4)
        assert torch.equal(embed(model, tokenizer, TEXTS), before)
        assert check_visibility(model).shape == (4, 8, 8)
        with pytest.raises(InputError, match=r"a PeftModel is not a plain adapted model; valid: what merge_lora\(\)"):
            verify(model)


# sentence-transformers


@pytest.mark.parametrize("pooling", ["mean", "last", "first-2", "kv-probe"])
@pytest.mark.parametrize("kind", [GemmaEncoder, GemmaEncoderForSequenceClassification])
def test_sentence_transformer_gives_our_vectors(decoder, tokenizer, tmp_path, pooling, kind):
    model = adapted(kind, decoder(), pooling=pooling)
    export_sentence_transformer(model, tokenizer, tmp_path / "out")
    vectors = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS, batch_size=2)
    ours = embed(model, tokenizer, TEXTS)
    torch.testing.assert_close(torch.tensor(vectors), ours, atol=1e-5, rtol=0)
    assert ours.std(dim=0).max() > 1e-2


def test_an_export_puts_cls_first_where_there_is_no_bos(decoder, tokenizer, tmp_path):
    model, tokenizer = adapted(GemmaEncoder, decoder(), pooling="first"), deepcopy(tokenizer)
    tokenizer.cls_token, tokenizer.bos_token = tokenizer.bos_token, None
    export_sentence_transformer(model, tokenizer, tmp_path / "out")
    vectors = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    torch.testing.assert_close(torch.tensor(vectors), embed(model, tokenizer, TEXTS), atol=1e-5, rtol=0)


@COLUMNS
@pytest.mark.parametrize("num_labels", [1, 3])
def test_cross_encoder_gives_our_logits(decoder, tokenizer, tmp_path, columns, num_labels):
    model = adapted(
        GemmaEncoderForSequenceClassification, decoder(), num_labels=num_labels, text_columns=columns
    )  # fmt: skip
    export_cross_encoder(model, tokenizer, tmp_path / "out")
    logits = CrossEncoder(str(tmp_path / "out"), device="cpu").predict(PAIRS, batch_size=2)
    ours = predict(model, tokenizer, PAIRS)
    torch.testing.assert_close(torch.tensor(logits).view(3, num_labels), ours, atol=1e-5, rtol=0)


def test_cross_encoder_ranks_as_we_do(decoder, tokenizer, tmp_path):
    model = adapted(GemmaEncoderForRanking, decoder(), text_columns=("query", "passage"))
    export_cross_encoder(model, tokenizer, tmp_path / "out")
    theirs = CrossEncoder(str(tmp_path / "out"), device="cpu").rank("Who?", TEXTS)
    ours = rank(model, tokenizer, "Who?", TEXTS)
    assert [hit["corpus_id"] for hit in theirs] == [index for index, _ in ours]
    assert [hit["score"] for hit in theirs] == pytest.approx([score for _, score in ours], abs=1e-5)


def test_an_export_refuses_rows_of_another_number_of_texts(decoder, tokenizer, tmp_path):
    model = adapted(GemmaEncoder, decoder(), text_columns=('the "first"', "second"))
    export_sentence_transformer(model, tokenizer, tmp_path / "out")
    loaded = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    torch.testing.assert_close(
        torch.tensor(loaded.encode(PAIRS)), embed(model, tokenizer, PAIRS), atol=1e-5, rtol=0
    )  # fmt: skip
    with pytest.raises(Exception, match=r'a row has 1 texts; valid: 2 \(the "first", second\)'):
        loaded.encode(["a"])


def test_an_export_cuts_at_the_length_it_was_told_and_at_the_last_position(decoder, tokenizer, tmp_path):
    model = adapted(GemmaEncoder, decoder())
    limit = model.config.decoder.max_position_embeddings
    for given, kept in ((7, 7), (limit + 9, limit)):
        export_sentence_transformer(model, tokenizer, tmp_path / str(given), max_length=given)
        loaded = SentenceTransformer(str(tmp_path / str(given)), device="cpu")
        long = "a " * (limit + 20)
        expected = embed(model, tokenizer, [long], max_length=kept, truncate=True)
        torch.testing.assert_close(torch.tensor(loaded.encode([long])), expected, atol=1e-5, rtol=0)
    for wrong in (-1, 1, 7.0):
        with pytest.raises(InputError, match=f"max_length {wrong} is not valid; valid: an integer >= 2"):
            export_sentence_transformer(model, tokenizer, tmp_path / "no", max_length=wrong)


def test_an_export_changes_neither_tokenizer_nor_model_and_never_overwrites(decoder, tokenizer, tmp_path):
    model = adapted(GemmaEncoderForSequenceClassification, decoder())
    before = weights_of(model)
    export_cross_encoder(model, tokenizer, tmp_path / "out")
    assert tokenizer.chat_template is None
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    with pytest.raises(InputError, match="is there already; valid: a new one"):
        export_sentence_transformer(model, tokenizer, tmp_path / "out")
    with pytest.raises(InputError, match="a GemmaEncoderForTokenClassification scores no rows"):
        export_cross_encoder(adapted(GemmaEncoderForTokenClassification, decoder()), tokenizer, tmp_path / "no")


def test_an_adapter_that_plain_peft_made_is_refused_where_it_would_lose_the_head(decoder, tmp_path):
    plain = LoraConfig(target_modules=["q_proj"])
    model = get_peft_model(adapted(GemmaEncoderForSequenceClassification, decoder(), pooling="kv-probe"), plain)
    with pytest.raises(InputError, match=r"the adapter does not keep head and pool; valid: what add_lora\(\) makes"):
        save_lora(model, tmp_path / "plain")
    kept = tmp_path / "kept"
    save_lora(with_adapter(decoder()), kept)
    settings = json.loads((kept / "adapter_config.json").read_text())
    (kept / "adapter_config.json").write_text(json.dumps(settings | {"modules_to_save": None}))
    with pytest.raises(InputError, match="the adapter does not keep head"):
        load_lora(kept, decoder())


@pytest.mark.parametrize(("first", "more", "says"), [("default", ["b"], "'default', 'b'"), ("mine", [], "'mine'")])
def test_adapters_that_would_not_be_loaded_again_are_not_saved(decoder, tmp_path, first, more, says):
    settings = LoraConfig(target_modules=["q_proj"], modules_to_save=["head"])
    plain = adapted(GemmaEncoderForSequenceClassification, decoder())
    model = get_peft_model(plain, settings, adapter_name=first)
    for name in more:
        model.add_adapter(name, settings)
        model.set_adapter(name)
    with pytest.raises(InputError, match=f"^adapters {says}; valid: one, 'default', as add_lora"):
        save_lora(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_decoder_that_is_trained_beside_its_adapter_is_not_saved_without_its_weights(decoder, tmp_path):
    model = with_adapter(decoder())
    model.get_base_model().encoder.backbone.norm.requires_grad_()
    with pytest.raises(InputError, match=r"beside the adapter, in norm\.weight; valid: a frozen decoder, or"):
        save_lora(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_embedding_that_peft_trains_comes_back_and_leaves_the_base_as_it_was(decoder, tokenizer, tmp_path):
    plain = adapted(GemmaEncoderForSequenceClassification, decoder())
    untrained, digest = predict(plain, tokenizer, TEXTS), base_digest(plain.encoder.backbone)
    settings = LoraConfig(target_modules=["q_proj"], modules_to_save=["head", "embed_tokens"])
    model = get_peft_model(plain, settings).eval()
    with torch.no_grad():
        plain.encoder.backbone.embed_tokens.modules_to_save["default"].weight.mul_(-1)
    trained = predict(model, tokenizer, TEXTS)
    assert (trained - untrained).abs().max() > 1e-2
    assert base_digest(plain.encoder.backbone) == digest
    save_lora(model, tmp_path)
    loaded = load_lora(tmp_path, decoder())
    assert torch.equal(predict(loaded, tokenizer, TEXTS), trained)
    assert torch.equal(predict(merge_lora(loaded), tokenizer, TEXTS), trained)


def test_a_resized_base_has_to_be_given_again_as_it_was(decoder, tokenizer, tmp_path):
    plain = adapted(GemmaEncoderForSequenceClassification, decoder())
    plain.resize_token_embeddings(len(tokenizer) + 8)
    resized = deepcopy(plain.encoder.backbone)
    model = add_lora(plain, rank=4)
    save_lora(model, tmp_path)
    with pytest.raises(InputError, match="belongs to a base of digest"):
        load_lora(tmp_path, decoder())
    assert torch.equal(predict(load_lora(tmp_path, resized), tokenizer, TEXTS), predict(model, tokenizer, TEXTS))


def test_a_decoder_without_a_limit_of_positions_is_merged(decoder, monkeypatch):
    model = with_adapter(decoder(), steps=0)
    config = model.config.decoder
    monkeypatch.delattr(type(config), "max_position_embeddings")
    monkeypatch.delattr(config, "max_position_embeddings")
    assert type(merge_lora(model)) is GemmaEncoderForSequenceClassification


def test_what_tokens_see_is_measured_when_an_adapter_is_loaded(decoder, tmp_path, causal_look):
    save_lora(with_adapter(decoder()), tmp_path)
    causal_look()
    with pytest.raises(VisibilityError, match="should depend on token"):
        load_lora(tmp_path, decoder())


@pytest.mark.parametrize("kind", [GemmaEncoderForRanking, GemmaEncoderForTokenClassification])
def test_inputs_that_a_head_does_not_know_are_named(decoder, kind):
    with pytest.raises(InputError, match="inputs inputs_embeds are unknown; valid: input_ids, attention_mask, labels"):
        kind.from_decoder(decoder())(torch.tensor([[[5, 6]]]), inputs_embeds=None)


@pytest.mark.parametrize("how", ["merge_adapter", "disable_adapter_layers"])
def test_an_adapter_that_does_not_act_is_not_saved(decoder, tmp_path, how):
    model = add_lora(adapted(GemmaEncoderForSequenceClassification, decoder()), rank=4)
    getattr(model if how == "merge_adapter" else model.base_model, how)()
    with pytest.raises(InputError, match="merged or switched off"):
        save_lora(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
