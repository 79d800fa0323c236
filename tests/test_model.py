"""The encoder against other implementations, its saving and loading, its losses, and training with Trainer."""

import json
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    T5GemmaConfig,
    Trainer,
    TrainingArguments,
)
from transformers.integrations.neftune import activate_neftune
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from gemma_encoder import (
    GemmaEncoder,
    GemmaEncoderConfig,
    GemmaEncoderForSequenceClassification,
    GemmaEncoderForTokenClassification,
    check_visibility,
)
from gemma_encoder.errors import InputError
from gemma_encoder.families import ENCODERS, FAMILIES
from gemma_encoder.model import encoder_of
from gemma_encoder.proofs import verify

PATHS = pytest.mark.parametrize("unpadded", [True, False], ids=["unpadded", "padded"])
SIDES = pytest.mark.parametrize("side", ["right", "left"])
LENGTHS = [9, 3, 14, 1]
F32 = torch.float32


def classifier(decoder, **settings):
    """A classifier whose head is large enough for its logits to differ."""
    torch.manual_seed(2)
    model = GemmaEncoderForSequenceClassification.from_decoder(decoder, **settings)
    for parameter in model.head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


# parity


def t5gemma_encoder(decoder, window):
    """The bidirectional Gemma 2 of transformers with the weights of `decoder`."""
    shared = T5GemmaModuleConfig().to_dict().keys() & decoder.config.to_dict().keys() - {"model_type", "architectures"}
    module = {name: getattr(decoder.config, name) for name in shared} | {"sliding_window": window}
    config = T5GemmaConfig(encoder=module, decoder=module)
    config._attn_implementation = "eager"
    encoder = T5GemmaEncoder(config.encoder).eval()
    renamed = {
        name.replace("input_layernorm", "pre_self_attn_layernorm").replace(
            "post_attention_layernorm", "post_self_attn_layernorm"
        ): value
        for name, value in decoder.state_dict().items()
    }
    encoder.load_state_dict(renamed)
    return encoder


@torch.no_grad()
def gap(model, reference, batch):
    """Largest difference on real tokens between our states and those of a model of transformers."""
    ids, mask = batch
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    theirs = reference(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    ours = model.eval()(ids, mask).last_hidden_state
    return (ours - theirs)[mask.bool()].abs().max().item()


@PATHS
@SIDES
def test_gemma2_equals_the_encoder_of_t5gemma(tiny_decoder, make_batch, unpadded, side):
    """Its window of W reads |i-j| <= W, ours |i-j| < W: they agree when ours is wider by one, and only then."""
    batch = make_batch(LENGTHS, side)
    reference = t5gemma_encoder(tiny_decoder(), window=3)
    model = GemmaEncoder.from_decoder(tiny_decoder(sliding_window=4), unpadded=unpadded)
    assert gap(model, reference, batch) <= 2e-6
    uncapped = t5gemma_encoder(tiny_decoder(attn_logit_softcapping=None), window=3)
    assert gap(model, uncapped, batch) > 1e-2, "the soft-cap does not bite"
    assert gap(model, t5gemma_encoder(tiny_decoder(), window=4), batch) > 1e-2, "the window does not bite"


@PATHS
@SIDES
@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"])
def test_bidirectional_equals_the_is_causal_switch_of_transformers(tiny_decoder, make_batch, family, unpadded, side):
    windowed = getattr(tiny_decoder(family).config, "sliding_window", None)
    narrower = {"sliding_window": windowed - 1} if windowed else {}  # theirs reads |i-j| <= W when not causal
    reference = tiny_decoder(family, **narrower)
    batch, causal = make_batch(LENGTHS, side), tiny_decoder(family)
    reference.config.is_causal = False
    model = GemmaEncoder.from_decoder(tiny_decoder(family), unpadded=unpadded)
    assert gap(model, reference, batch) <= 5e-6
    assert gap(model, causal, batch) > 1e-2


@SIDES
@PATHS
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_with_its_own_attention_it_equals_the_model_itself(tiny_decoder, make_batch, family, unpadded, side):
    own, other = ("bidirectional", "causal") if family in ENCODERS else ("causal", "bidirectional")
    batch, found = make_batch(LENGTHS, side), {}
    for attention in (own, other):
        model = GemmaEncoder.from_decoder(tiny_decoder(family), attention=attention, unpadded=unpadded)
        found[attention] = gap(model, tiny_decoder(family), batch)
    assert found[own] <= 5e-6
    assert found[other] > 1e-2


# adapting


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_decoder_keeps_every_bit_of_its_weights(tiny_decoder, family):
    kept = {name: value.clone() for name, value in tiny_decoder(family).state_dict().items()}
    decoder = tiny_decoder(family)
    model = GemmaEncoderForSequenceClassification.from_decoder(decoder)
    assert model.encoder.backbone is decoder
    adapted = model.encoder.backbone.state_dict()
    assert adapted.keys() == kept.keys()
    assert all(torch.equal(adapted[name], value) for name, value in kept.items())


@pytest.mark.parametrize("training", [True, False])
def test_a_new_model_is_in_eval_mode_like_a_loaded_one(tiny_decoder, tmp_path, training):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder().train(training), pooling="kv-probe")
    model.save_pretrained(tmp_path)
    for each in (model, GemmaEncoderForSequenceClassification.from_pretrained(tmp_path)):
        assert not any(module.training for module in each.modules())


def test_a_causal_language_model_gives_its_decoder(tiny_config):
    whole = AutoModelForCausalLM.from_config(tiny_config())
    model = GemmaEncoder.from_decoder(whole)
    assert model.backbone is whole.model
    assert not any("lm_head" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_of_the_weights_is_the_one_asked_for(tiny_decoder, make_batch, dtype):
    model = classifier(tiny_decoder("llama"), dtype=dtype)
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {found for name, found in types.items() if not name.startswith("head.")} == {dtype}
    assert {found for name, found in types.items() if name.startswith("head.")} == {torch.promote_types(dtype, F32)}
    assert model.encoder.backbone.rotary_emb.inv_freq.dtype == torch.float32, "positions lose their precision"
    assert model(*make_batch([3])).logits.dtype == torch.promote_types(dtype, F32)


def test_the_head_starts_small_and_without_bias(tiny_decoder):
    head = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), num_labels=90).head
    for layer in (head.dense, head.out):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert (layer.bias == 0).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attention": "both"}, "unknown attention 'both'"),
        ({"attention": "causal-last-5"}, "attention 'causal-last-5' is for 5 layers; this decoder has 4"),
        ({"attention": "window-0"}, "window width 0 is not valid; valid: an integer >= 1"),
        ({"pooling": "max"}, "unknown pooling 'max'"),
        ({"atention": "causal"}, "unknown setting 'atention' (did you mean 'attention'?)"),
        ({"attention": ["causal"]}, "unknown attention ['causal']"),
        ({"pooling_heads": -3}, "pooling_heads -3 is not valid; valid: an integer >= 1"),
        ({"pooling_heads": "4"}, "pooling_heads '4' is not valid"),
        ({"pooling_latents": 2.5, "pooling": "query-probe"}, "pooling_latents 2.5 is not valid"),
        ({"pooling_latents": 0}, "pooling_latents 0 is not valid"),
        (
            {"pooling_latents": 1, "pooling": "kv-probe"},
            "pooling_latents 1 is too small for 'kv-probe'; valid: an integer >= 2",
        ),
        ({"unpadded": "no"}, "unpadded 'no' is not valid; valid: True or False"),
        ({"pooling_projections": 1}, "pooling_projections 1 is not valid; valid: True or False"),
        ({"num_labels": True}, "num_labels True is not valid; valid: an integer >= 1"),
        ({"attention_dropout": 1.5}, "attention_dropout 1.5 is not valid"),
        ({"ffn_dropout": -1}, "ffn_dropout -1 is not valid"),
    ],
)
def test_a_wrong_setting_is_named(tiny_decoder, settings, says):
    with pytest.raises(InputError) as refused:
        GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), **settings)
    assert says in str(refused.value)


# pooling on a live model


@SIDES
@PATHS
def test_a_last_token_with_the_id_of_the_pad_is_still_a_token(tiny_decoder, make_batch, unpadded, side):
    model = GemmaEncoder.from_decoder(tiny_decoder(), pooling="last", unpadded=unpadded).eval()
    ids, mask = make_batch([5, 8], side)
    last = 4 if side == "right" else 7
    ids[0, last] = model.config.decoder.pad_token_id
    output = model(ids, mask)
    assert torch.equal(output.pooler_output[0], output.last_hidden_state[0, last])
    alone = model(ids[0][mask[0].bool()][None]).pooler_output[0]
    torch.testing.assert_close(output.pooler_output[0], alone, atol=2e-6, rtol=0)


@PATHS
def test_a_row_of_only_padding_is_named(tiny_decoder, make_batch, unpadded):
    model = GemmaEncoder.from_decoder(tiny_decoder(), unpadded=unpadded)
    ids, mask = make_batch([3, 2, 4])
    mask[1] = 0
    with pytest.raises(InputError, match=r"rows \[1\] hold no token"):
        model(ids, mask)
    with pytest.raises(InputError, match=r"attention_mask of shape \(3, 3\); valid: \(3, 4\)"):
        model(ids, mask[:, 1:])


# losses


def test_losses_are_means_over_the_batch(tiny_decoder, make_batch):
    batch = make_batch([4, 2])
    three = classifier(tiny_decoder(), num_labels=3).eval()
    output = three(*batch, labels=torch.tensor([2, 0]))
    chances = output.logits.softmax(-1)
    torch.testing.assert_close(output.loss, -(chances[0, 2].log() + chances[1, 0].log()) / 2)
    score = classifier(tiny_decoder(), num_labels=1).eval()
    output = score(*batch, labels=torch.tensor([1.5, -2.0]))
    assert output.logits.shape == (2, 1)
    torch.testing.assert_close(output.loss, ((output.logits[0, 0] - 1.5) ** 2 + (output.logits[1, 0] + 2) ** 2) / 2)
    assert score(*batch).loss is None


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [-100, 1]])
def test_labels_that_do_not_fit_the_head_are_refused(tiny_decoder, make_batch, labels):
    with pytest.raises(InputError, match=r"do not fit; valid: 0 to 2"):
        classifier(tiny_decoder(), num_labels=3)(*make_batch([4, 2]), labels=torch.tensor(labels))


@pytest.mark.parametrize("num_labels", [1, 3])
def test_labels_of_another_shape_are_refused(tiny_decoder, make_batch, num_labels):
    model = classifier(tiny_decoder(), num_labels=num_labels)
    with pytest.raises(InputError, match=r"labels of shape \(2, 1\); valid: \(2,\)"):
        model(*make_batch([4, 2]), labels=torch.tensor([[0], [0]]))


# what attention is for


@pytest.mark.parametrize(("attention", "solves"), [("bidirectional", True), ("causal", False)])
def test_the_first_state_knows_the_last_token_only_where_it_may_look(tiny_decoder, attention, solves):
    """The end of a row decides its label; under a causal mask the first state has seen nothing but itself."""
    torch.manual_seed(0)
    decoder = tiny_decoder("llama", num_hidden_layers=2, initializer_range=0.1)
    model = classifier(decoder, attention=attention, pooling="first").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def rows(count):
        ids, labels = torch.randint(20, 97, (count, 6)), torch.randint(2, (count,))
        ids[:, 0] = 2  # as in every row of ours
        ids[:, -1] = 10 + labels
        return ids, labels

    for _ in range(60):
        ids, labels = rows(32)
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
    ids, labels = rows(400)
    with torch.no_grad():
        right = (model.eval()(ids).logits.argmax(dim=1) == labels).float().mean()
    assert right > 0.98 if solves else 0.4 < right < 0.6


def test_a_loaded_model_is_taken_over_and_converted(tiny_decoder):
    decoder = tiny_decoder("llama").to(torch.bfloat16)
    kept = GemmaEncoder.from_decoder(decoder, dtype=torch.bfloat16)
    assert kept.backbone is decoder
    assert kept.dtype == torch.bfloat16
    assert GemmaEncoder.from_decoder(decoder).dtype == decoder.dtype == torch.float32


# saving and loading


@pytest.mark.parametrize("kind", [GemmaEncoderForSequenceClassification, AutoModelForSequenceClassification])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_round_trips_change_no_bit_of_the_logits(tiny_decoder, make_batch, tmp_path, kind, dtype):
    settings = {"attention": "causal", "pooling": "last", "attention_dropout": 0.2, "ffn_dropout": 0.3}
    model = classifier(tiny_decoder(), num_labels=3, dtype=dtype, unpadded=False, **settings).eval()
    batch = make_batch(LENGTHS)
    before = model(*batch).logits
    for cycle in range(3):
        model.save_pretrained(tmp_path / str(cycle))
        model = kind.from_pretrained(tmp_path / str(cycle)).eval()
        assert type(model) is GemmaEncoderForSequenceClassification
        assert torch.equal(model(*batch).logits, before)
    assert {name: getattr(model.config, name) for name in settings} == settings
    assert model.config.unpadded is False
    assert model.config.decoder.sliding_window == 4


@pytest.mark.parametrize("pooling", ["mean", "query-probe", "kv-probe", "first-2"])
def test_an_encoder_round_trip_keeps_the_pooler(tiny_decoder, make_batch, tmp_path, pooling):
    model = GemmaEncoder.from_decoder(tiny_decoder(), pooling=pooling).eval()
    batch = make_batch([9, 3])
    before = model(*batch).pooler_output
    for cycle in range(3):
        model.save_pretrained(tmp_path / str(cycle))
        model = AutoModel.from_pretrained(tmp_path / str(cycle)).eval()
        assert type(model) is GemmaEncoder
        assert torch.equal(model(*batch).pooler_output, before)


def test_the_encoder_of_a_saved_classifier_can_be_loaded_alone(tiny_decoder, make_batch, tmp_path):
    model = classifier(tiny_decoder()).eval()
    model.save_pretrained(tmp_path)
    encoder, batch = GemmaEncoder.from_pretrained(tmp_path).eval(), make_batch(LENGTHS)
    assert torch.equal(encoder(*batch).pooler_output, model.encoder(*batch).pooler_output)


def test_the_configuration_is_found_by_its_name(tiny_decoder, tmp_path):
    classifier(tiny_decoder(), num_labels=5, pooling="first").save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, GemmaEncoderConfig)
    assert (config.num_labels, config.pooling, config.decoder.model_type) == (5, "first", "gemma2")


@pytest.mark.parametrize("attention", ["bidirectional", "prefix-3", "window-2"])
def test_a_pickled_model_comes_back_equal(tiny_decoder, make_batch, attention):
    """As sentence-transformers sends it to other processes, and torch.save writes it."""
    model, batch = classifier(tiny_decoder(), attention=attention, pooling="kv-probe"), make_batch(LENGTHS)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(*batch).logits, model(*batch).logits)
    assert torch.equal(check_visibility(again), check_visibility(model))


def test_layer_states_are_those_behind_the_layers(tiny_decoder, make_batch):
    model = GemmaEncoder.from_decoder(tiny_decoder())
    ids, mask = make_batch(LENGTHS)
    output, states = model(ids, mask, output_hidden_states=True), model.layer_states(ids, mask)
    assert all(map(torch.equal, states[:-1], output.hidden_states[1:-1]))
    normed = model.backbone.norm(states[-1]).masked_fill(mask[..., None] == 0, 0)
    torch.testing.assert_close(normed, output.last_hidden_state)
    assert not torch.equal(states[-1], normed)


def edited(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", [GemmaEncoderForSequenceClassification, AutoModelForSequenceClassification])
@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda weights: weights.pop("head.out.weight"), "lacks weights .*: head.out.weight"),
        (lambda weights: weights.pop("encoder.backbone.norm.weight"), "lacks weights .*encoder.backbone.norm.weight"),
        (lambda weights: weights.update({"head.extra": torch.zeros(1)}), "has unknown weights .*: head.extra"),
        (
            lambda weights: weights.update({"head.out.bias": torch.zeros(7)}),
            r"lacks weights .*: head.out.bias \(2,\) \(has \(7,\)\)",
        ),
    ],
)
def test_lost_or_foreign_weights_raise(tiny_decoder, tmp_path, caplog, edit, says, kind):
    classifier(tiny_decoder()).save_pretrained(tmp_path)
    edited(tmp_path, edit)
    caplog.clear()
    with pytest.raises(InputError, match=says):
        kind.from_pretrained(tmp_path)
    assert caplog.records == []


def test_an_encoder_without_a_head_is_no_classifier(tiny_decoder, tmp_path):
    GemmaEncoder.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lacks weights for GemmaEncoderForSequenceClassification: head\.dense"):
        GemmaEncoderForSequenceClassification.from_pretrained(tmp_path)


# training


def collate(rows):
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}


def make_examples(make_batch, count, labels):
    ids, mask = make_batch([3 + i % 7 for i in range(count)])
    return [{"input_ids": ids[i][mask[i].bool()].tolist(), "labels": labels[i % len(labels)]} for i in range(count)]


@pytest.mark.parametrize("labels", [[0, 1, 2], [0.5, -1.0, 2.5]], ids=["classes", "scores"])
def test_accumulated_small_batches_make_the_update_of_one_big_batch(tiny_decoder, make_batch, tmp_path, labels):
    results = []
    for size, accumulation in ((8, 1), (2, 4)):
        model = classifier(
            tiny_decoder(), num_labels=3 if isinstance(labels[0], int) else 1, attention_dropout=0, ffn_dropout=0
        )
        before = [parameter.detach().clone() for parameter in model.parameters()]
        arguments = TrainingArguments(
            tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
            optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0, use_cpu=True,
            logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=make_examples(make_batch, 8, labels), data_collator=collate)
        loss = trainer.train().training_loss
        results.append(
            (loss, [after.detach() - start for after, start in zip(model.parameters(), before, strict=True)])
        )
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert max(update.abs().max().item() for update in results[0][1]) > 1e-3
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [0.5, -1.0, 2.0]], ids=["classes", "scores"])
def test_sixteen_examples_are_learnt_by_heart(tiny_decoder, make_batch, labels):
    model = classifier(
        tiny_decoder("llama", initializer_range=0.1), num_labels=3 if isinstance(labels[0], int) else 1,
        attention_dropout=0, ffn_dropout=0,
    ).train()  # fmt: skip
    batch = collate(make_examples(make_batch, 16, labels))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


@PATHS
def test_another_attention_implementation_is_refused_when_it_runs(tiny_decoder, make_batch, unpadded):
    """The decoder's own would read the past alone, and say nothing."""
    model = GemmaEncoder.from_decoder(tiny_decoder(), unpadded=unpadded)
    model.backbone.set_attn_implementation("eager")
    with pytest.raises(InputError, match="attention implementation 'eager' does not know our masks; valid: 'gemma_"):
        model(*make_batch([5, 3]))


@pytest.mark.parametrize("value", [-1e9, 0.5, 2, float("nan"), float("-inf")])
@PATHS
def test_a_mask_of_other_values_than_0_and_1_is_named_by_row(tiny_decoder, make_batch, value, unpadded):
    """One that is added to scores would be read inverted."""
    model = GemmaEncoder.from_decoder(tiny_decoder(), unpadded=unpadded)
    ids, mask = make_batch([4, 3])
    for kind in (torch.bool, torch.int32, torch.float32):
        assert torch.equal(model(ids, mask.to(kind)).pooler_output, model(ids, mask).pooler_output)
    wrong = mask.float()
    wrong[1, 3] = value
    with pytest.raises(InputError, match=r"rows \[1\] have an attention_mask of other values; valid: 1 for a token"):
        model(ids, wrong)


def test_a_row_of_more_tokens_than_the_decoder_has_positions_is_named(tiny_decoder, make_batch):
    model = GemmaEncoder.from_decoder(tiny_decoder(max_position_embeddings=8))
    model(*make_batch([8, 3], spare=2))
    with pytest.raises(InputError, match=r"rows \[1\] hold more tokens than .*, the longest 9; valid: up to 8"):
        model(*make_batch([8, 9]))


def test_ids_that_are_no_integers_are_named(tiny_decoder):
    with pytest.raises(InputError, match=r"input_ids of type torch\.float32; valid: torch\.int64"):
        GemmaEncoder.from_decoder(tiny_decoder())(torch.ones(1, 4))


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gpt_neox"])
def test_a_resized_vocabulary_is_saved_and_loaded(tiny_decoder, make_batch, tmp_path, family):
    model, batch = classifier(tiny_decoder(family)), make_batch(LENGTHS)
    before = model(*batch).logits
    model.resize_token_embeddings(120)
    assert torch.equal(model(*batch).logits, before)
    new = torch.tensor([[5, 119]])
    model.save_pretrained(tmp_path)
    loaded = GemmaEncoderForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.decoder.vocab_size == 120
    assert torch.equal(loaded(new).logits, model(new).logits)


@pytest.mark.parametrize(("num_labels", "problem"), [(1, "regression"), (3, "single_label_classification")])
def test_the_problem_type_is_that_of_the_labels(tiny_decoder, make_batch, tmp_path, num_labels, problem):
    model, batch = classifier(tiny_decoder(), num_labels=num_labels), make_batch(LENGTHS)
    assert model.config.problem_type == problem
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "problem_type": None}))  # an older checkpoint
    loaded = GemmaEncoderForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.problem_type == problem
    assert torch.equal(loaded(*batch).logits, model(*batch).logits)
    with pytest.raises(
        InputError, match=rf"problem_type 'multi_label_classification' does not fit .*; valid: '{problem}'"
    ):
        GemmaEncoderConfig(
            decoder=tiny_decoder().config, num_labels=num_labels, problem_type="multi_label_classification"
        )


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 2, 4)])
def test_ids_of_another_shape_are_named(tiny_decoder, shape):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder())
    for part in (model, model.encoder):
        with pytest.raises(InputError, match=r"input_ids of shape .*; valid: \(batch, seq\), batch >= 1"):
            part(torch.ones(shape, dtype=torch.long))
        with pytest.raises(InputError, match=r"input_ids of type list; valid: a tensor \(batch, seq\)"):
            part(torch.ones(shape, dtype=torch.long).tolist())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_labels": 0}, "num_labels 0 is not valid; valid: an integer >= 1"),
        ({"text_columns": "premise"}, "text_columns 'premise' is not valid; valid: a list of names"),
        ({"text_columns": 3}, "text_columns 3 is not valid"),
        ({"text_columns": None}, "text_columns None is not valid"),
        ({"text_columns": [1, 2]}, r"text_columns \[1, 2\] is not valid"),
        (
            {"id2label": ["no", "yes"]},
            r"id2label \['no', 'yes'\] is not valid; valid: a dictionary with a name for every",
        ),
        ({"id2label": {1: "no", 2: "yes"}}, "id2label .* is not valid; .* for every label from 0 to 1"),
        (
            {"id2label": {0: "no", 1: "yes"}, "num_labels": 3},
            "id2label .* is not valid; .* for every label from 0 to 2",
        ),
        ({"dtype": "bfloat16"}, "dtype 'bfloat16' is not valid; valid: a floating-point type"),
        ({"dtype": torch.int8}, r"dtype torch.int8 is not valid"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(tiny_decoder, settings, says):
    with pytest.raises(InputError, match=says):
        GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), **settings)


@pytest.mark.parametrize("pooling", ["last-9", "first-50"])
def test_a_pooler_of_more_tokens_than_a_probe_is_loaded_and_proven(tiny_decoder, tmp_path, pooling):
    model = GemmaEncoder.from_decoder(tiny_decoder(), pooling=pooling)
    model.save_pretrained(tmp_path)
    loaded = GemmaEncoder.from_pretrained(tmp_path)
    check_visibility(loaded)
    assert all(proof.ok for proof in verify(loaded))


@pytest.mark.parametrize(("name", "value"), [("attention", "causal"), ("pooling", "last"), ("ffn_dropout", 0.3)])
def test_a_configuration_that_is_no_longer_that_of_the_model_is_not_saved(tiny_decoder, tmp_path, name, value):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder())
    built = getattr(model.config, name)
    setattr(model.config, name, value)
    with pytest.raises(InputError, match=rf"config.{name} is {value!r}, the model was built with {built!r}"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bos_behind_the_first_token_is_refused(tiny_decoder):
    """By every model; where it is the end of text too, a row that does not begin with it may hold it."""
    wrong = torch.tensor([[2, 5, 6, 7], [5, 6, 2, 7]])
    for kind in (GemmaEncoder, GemmaEncoderForTokenClassification, GemmaEncoderForSequenceClassification):
        with pytest.raises(InputError, match=r"rows \[1\] hold a BOS behind their first token"):
            kind.from_decoder(tiny_decoder("llama", bos_token_id=2, eos_token_id=1))(wrong)
    both = GemmaEncoder.from_decoder(tiny_decoder("llama", bos_token_id=2, eos_token_id=2))
    both(wrong)
    with pytest.raises(InputError, match=r"rows \[0\] hold a BOS"):
        both(torch.tensor([[2, 5, 6, 2]]))


def test_scores_of_a_bfloat16_model_are_not_tied_by_rounding(tiny_decoder):
    model = classifier(tiny_decoder(), dtype=torch.bfloat16, num_labels=1).eval()
    vectors = torch.randn(1000, model.config.decoder.hidden_size).bfloat16()
    with torch.no_grad():
        assert len(model.head(vectors).unique()) > 990
        with torch.autocast("cpu", torch.bfloat16):
            assert len(model.head(vectors).unique()) > 990


def test_a_checkpoint_loaded_in_bfloat16_keeps_its_head(tiny_decoder, tmp_path):
    classifier(tiny_decoder()).save_pretrained(tmp_path)
    loaded = GemmaEncoderForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert {found for name, found in types.items() if name.startswith("head.")} == {F32}
    assert {found for name, found in types.items() if not name.startswith("head.")} == {torch.bfloat16}
    assert torch.equal(loaded.head.out.weight, load_file(tmp_path / "model.safetensors")["head.out.weight"])


def test_ids_that_no_token_has_are_named_by_row(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder())
    last = model.config.decoder.vocab_size - 1
    for wrong in (last + 1, -1):
        with pytest.raises(InputError, match=rf"rows \[1\] hold an unknown id; valid: 0 to {last}"):
            model(torch.tensor([[5, last], [5, wrong]]))
    model(torch.tensor([[5, last], [5, -1]]), torch.tensor([[1, 1], [1, 0]]))  # a slot without a token may hold it


def test_no_decoder_is_named():
    with pytest.raises(InputError, match="decoder None is not valid; valid: a checkpoint folder, a hub name"):
        GemmaEncoder.from_decoder(None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: setattr(model.config, "num_labels", 5), "config.num_labels is 5, the head has 2 outputs"),
        (lambda model: setattr(model.head, "out", nn.Linear(32, 5)), "config.num_labels is 2, the head has 5 outputs"),
        (
            lambda model: setattr(model.config.decoder, "sliding_window", 3),
            "config.decoder.sliding_window is 3, the model was built with 4",
        ),
        (
            lambda model: setattr(model.config.decoder, "attn_logit_softcapping", 0.1),
            "config.decoder.attn_logit_softcapping is 0.1, the model was built with 2.0",
        ),
        (
            lambda model: setattr(model.encoder.backbone, "layers", model.encoder.backbone.layers[:2]),
            "decoder has 2 layers, its configuration 4",
        ),
    ],
)
def test_a_model_that_would_be_loaded_as_another_is_not_saved(tiny_decoder, tmp_path, change, says):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder())
    change(model)
    with pytest.raises(InputError, match=says):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_cut_without_its_configuration_is_named(tiny_decoder, make_batch):
    says, decoder = r"decoder has 2 layers, its configuration 4; valid: .* cut before from_decoder", tiny_decoder()
    model = GemmaEncoder.from_decoder(decoder)
    decoder.layers = decoder.layers[:2]
    for run in (lambda: model(*make_batch(LENGTHS)), lambda: GemmaEncoder.from_decoder(decoder)):
        with pytest.raises(InputError, match=says):
            run()


def test_a_model_that_is_not_adapted_is_named(tiny_decoder):
    for other in (tiny_decoder(), "tiny"):
        with pytest.raises(InputError, match=f"no GemmaEncoder in a {type(other).__name__}; valid: an adapted model"):
            encoder_of(other)


def test_labels_are_numbered_by_their_names(tiny_decoder, tmp_path):
    model, names = classifier(tiny_decoder(), id2label={0: "neg", 1: "pos"}), {0: "no", 1: "yes"}
    assert model.config.label2id == {"neg": 0, "pos": 1}
    model.save_pretrained(tmp_path)
    assert GemmaEncoderForSequenceClassification.from_pretrained(tmp_path).config.label2id == {"neg": 0, "pos": 1}
    renamed = GemmaEncoderForSequenceClassification.from_pretrained(tmp_path, id2label=names).config
    assert (renamed.id2label, renamed.label2id) == (names, {"no": 0, "yes": 1})


@PATHS
def test_the_noise_of_neftune_is_that_of_the_padded_batch(tiny_decoder, make_batch, unpadded):
    model, states = GemmaEncoder.from_decoder(tiny_decoder(), unpadded=unpadded).train(), []
    embedding, keep = model.get_input_embeddings(), lambda module, inputs, output: states.append(output.detach())
    embedding.register_forward_hook(keep)
    activate_neftune(model, 5.0)
    embedding.register_forward_hook(keep)
    model(*make_batch(8 * LENGTHS))
    noise = states[1] - states[0]
    assert noise.std().item() == pytest.approx(5 / (3 * max(LENGTHS) * 32) ** 0.5, rel=0.05)


def test_lora_on_the_token_embedding_is_trained(tiny_decoder, make_batch):
    model = get_peft_model(classifier(tiny_decoder()), LoraConfig(target_modules=["q_proj", "embed_tokens"])).train()
    model(*make_batch([4, 2]), labels=torch.tensor([0, 1])).loss.backward()
    trained = [name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()]
    assert all("lora_" in name for name in trained)
    for part in ("q_proj", "embed_tokens"):
        assert any(part in name for name in trained)


def test_weights_of_a_decoder_put_together_by_hand_are_kept(tiny_decoder, tiny_config):
    source = tiny_decoder("llama")
    with torch.device("meta"):
        decoder = AutoModel.from_config(tiny_config("llama"))
    decoder.load_state_dict(source.state_dict(), assign=True)
    decoder.rotary_emb = source.rotary_emb
    decoder.layers[0].mlp.up_proj = torch.nn.Linear(*reversed(source.layers[0].mlp.up_proj.weight.shape), bias=False)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    model = GemmaEncoderForSequenceClassification.from_decoder(decoder)
    after = model.encoder.backbone.state_dict()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []


@pytest.mark.parametrize("pooling", ["mean", "query-probe", "kv-probe"])
def test_a_seed_gives_the_same_head_beside_every_pooler(tiny_decoder, pooling):
    heads = []
    for name in ("last", pooling):
        torch.manual_seed(3)
        heads.append(GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), pooling=name).head)
    assert torch.equal(heads[0].dense.weight, heads[1].dense.weight)
    assert torch.equal(heads[0].out.weight, heads[1].out.weight)
    assert heads[0].dense.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("unpadded", [True, False])
def test_a_slot_without_a_token_may_hold_anything(tiny_decoder, make_batch, unpadded):
    model, (ids, mask) = GemmaEncoder.from_decoder(tiny_decoder(), unpadded=unpadded), make_batch([5, 2, 7])
    other = ids.masked_fill(mask == 0, -100)
    torch.testing.assert_close(model(other, mask).pooler_output, model(ids, mask).pooler_output, atol=0, rtol=0)
