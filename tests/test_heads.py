"""The heads: what they compute from the encoder, their labels, saving and loading, and training with Trainer."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)

import gemma_encoder
from gemma_encoder import (
    GemmaEncoder,
    GemmaEncoderConfig,
    GemmaEncoderForRanking,
    GemmaEncoderForSequenceClassification,
    GemmaEncoderForTokenClassification,
    InputError,
    load_model,
)
from gemma_encoder.losses import listwise_softmax, pointwise_logistic

KINDS = [GemmaEncoderForSequenceClassification, GemmaEncoderForRanking, GemmaEncoderForTokenClassification]
AUTO = {
    GemmaEncoderForSequenceClassification: AutoModelForSequenceClassification,
    GemmaEncoderForRanking: AutoModelForMultipleChoice,
    GemmaEncoderForTokenClassification: AutoModelForTokenClassification,
}
PATHS = pytest.mark.parametrize("unpadded", [True, False], ids=["unpadded", "padded"])


def adapted(kind, decoder, **settings):
    """A model whose head is large enough for its answers to differ."""
    torch.manual_seed(2)
    model = kind.from_decoder(decoder, **settings)
    for parameter in model.head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def lists(make_batch):
    """Two lists of three candidates, the last slot of the second without one: ids, mask `(2, 3, seq)`, filled."""
    ids, mask = make_batch([5, 9, 2, 7, 3, 4])
    ids, mask = ids.unflatten(0, (2, 3)), mask.unflatten(0, (2, 3)).clone()
    mask[1, 2] = 0
    return ids, mask, mask.any(dim=2)


def inputs_for(kind, make_batch):
    ids, mask = make_batch([5, 9, 2, 7])
    shape = (2, 2) if kind is GemmaEncoderForRanking else (4,)
    return ids.unflatten(0, shape), mask.unflatten(0, shape)


# what they compute


def test_a_head_is_two_layers_with_gelu(tiny_decoder, make_batch):
    model = adapted(GemmaEncoderForSequenceClassification, tiny_decoder(), num_labels=3)
    batch, head = make_batch([5, 9]), model.head
    pooled = model.encoder(*batch).pooler_output
    inner = pooled @ head.dense.weight.T + head.dense.bias
    gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    torch.testing.assert_close(model(*batch).logits, gelu @ head.out.weight.T + head.out.bias)


@PATHS
def test_a_list_of_candidates_gets_the_scores_of_its_rows(tiny_decoder, lists, unpadded):
    model = adapted(GemmaEncoderForRanking, tiny_decoder(), unpadded=unpadded)
    ids, mask, filled = lists
    logits = model(ids, mask).logits
    assert logits.shape == (2, 3)
    for row, slot in filled.nonzero().tolist():
        alone = ids[row, slot][mask[row, slot].bool()][None]
        torch.testing.assert_close(logits[row, slot], model.row_logits(alone)[0, 0], atol=2e-6, rtol=0)
    assert logits[~filled].tolist() == [float("-inf")]
    assert logits[filled].std() > 1e-2


@PATHS
@pytest.mark.parametrize("name", ["listwise_softmax", "pointwise_logistic"])
def test_a_slot_without_a_candidate_changes_neither_loss_nor_gradient(tiny_decoder, lists, name, unpadded):
    model = adapted(GemmaEncoderForRanking, tiny_decoder(), ranking_loss=name, unpadded=unpadded)
    ids, mask, _ = lists
    labels = torch.tensor([[0, 2, 1], [1, 0, 0]])
    results = []
    for ids_there, label_there in ((0, 0), (50, 3), (96, -100)):
        dirty, marked = ids.clone(), labels.clone()
        dirty[1, 2], marked[1, 2] = ids_there, label_there
        model.zero_grad()
        loss = model(dirty, mask, marked).loss
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(value.isfinite().all() for value in results[0])
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_the_ranking_loss_is_the_one_of_the_configuration(tiny_decoder, lists):
    ids, mask, filled = lists
    labels = torch.tensor([[0, 2, 1], [1, 0, 0]])
    found = []
    for name, loss in (("listwise_softmax", listwise_softmax), ("pointwise_logistic", pointwise_logistic)):
        output = adapted(GemmaEncoderForRanking, tiny_decoder(), ranking_loss=name)(ids, mask, labels)
        assert output.loss == loss(output.logits, labels, filled)
        found.append(output.loss.item())
    assert found[0] != pytest.approx(found[1], rel=1e-2)


def test_the_index_of_the_right_choice_is_a_label_too(tiny_decoder, lists):
    ids, mask, _ = lists
    model = adapted(GemmaEncoderForRanking, tiny_decoder())
    output = model(ids, mask, torch.tensor([2, 0]))
    expected = -(output.logits[0].log_softmax(0)[2] + output.logits[1, :2].log_softmax(0)[0]) / 2
    torch.testing.assert_close(output.loss, expected)
    assert output.loss == model(ids, mask, torch.tensor([[0, 0, 1], [1, 0, 0]])).loss


@PATHS
@pytest.mark.parametrize("side", ["right", "left"])
def test_every_token_gets_its_logits_and_pads_no_loss(tiny_decoder, make_batch, side, unpadded):
    model = adapted(GemmaEncoderForTokenClassification, tiny_decoder(), num_labels=5, unpadded=unpadded)
    ids, mask = make_batch([6, 4], side)
    output = model(ids, mask, labels := torch.randint(0, 5, ids.shape))  # with labels at pads
    alone = model(ids[1][mask[1].bool()][None]).logits[0]
    torch.testing.assert_close(output.logits[1][mask[1].bool()], alone, atol=2e-6, rtol=0)
    rows = [F.cross_entropy(output.logits[i][mask[i].bool()], labels[i][mask[i].bool()]) for i in (0, 1)]
    torch.testing.assert_close(output.loss, sum(rows) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_attentions_are_returned_where_asked_for_or_configured(tiny_decoder, make_batch, kind):
    model, batch = adapted(kind, tiny_decoder()), inputs_for(kind, make_batch)
    plain = model(*batch)
    assert plain.hidden_states is plain.attentions is None
    asked = model(*batch, output_hidden_states=True, output_attentions=True)
    model.config.output_hidden_states = True
    for output in (asked, model(*batch)):
        assert [state.shape for state in output.hidden_states] == [(4, 9, 32)] * 5
    assert [weights.shape for weights in asked.attentions] == [(4, 4, 9, 9)] * 4
    assert model(*batch, output_hidden_states=False).hidden_states is None
    torch.testing.assert_close(asked.logits, plain.logits)


def test_a_head_that_was_rounded_still_computes_in_float32(tiny_decoder):
    model = adapted(GemmaEncoderForSequenceClassification, tiny_decoder(), num_labels=1).to(torch.bfloat16)
    scores = model.head(torch.randn(1000, 32).bfloat16())
    assert scores.dtype == torch.float32
    assert len(scores.unique()) > 990


def test_whatever_wraps_a_layer_of_the_head_is_called(tiny_decoder, make_batch):
    model, batch, seen = adapted(GemmaEncoderForSequenceClassification, tiny_decoder()), make_batch([5, 9]), []
    tuned = get_peft_model(model, LoraConfig(target_modules=["out"])).to(torch.bfloat16).eval()
    nn.init.normal_(model.head.out.lora_B.default.weight)
    model.head.dense.register_forward_hook(lambda *call: seen.append(call))
    logits = tuned(*batch).logits
    assert len(seen) == 1
    with tuned.disable_adapter():
        assert (tuned(*batch).logits - logits).abs().min() > 1e-2
    assert logits.dtype == torch.float32


def test_a_quantised_layer_of_the_head_is_given_float32(tiny_decoder, make_batch):
    model, batch = adapted(GemmaEncoderForSequenceClassification, tiny_decoder()), make_batch([5, 9])
    before, layer = model(*batch).logits, model.head.out
    model.head.out = torch.ao.nn.quantized.dynamic.Linear(32, 2)
    scale = layer.weight.abs().max().item() / 127
    model.head.out.set_weight_bias(torch.quantize_per_tensor(layer.weight.detach(), scale, 0, torch.qint8), layer.bias)
    torch.testing.assert_close(model(*batch).logits, before, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuple_is_returned_where_the_configuration_says_so(tiny_decoder, make_batch, kind):
    model, batch = adapted(kind, tiny_decoder()), inputs_for(kind, make_batch)
    logits = model(*batch).logits
    model.config.return_dict = model.config.decoder.return_dict = False
    assert torch.equal(model(*batch)[0], logits)


# bad input


@pytest.mark.parametrize("kind", [*KINDS, GemmaEncoder])
def test_an_input_that_a_model_does_not_know_is_named(tiny_decoder, make_batch, kind):
    ids, mask = inputs_for(kind, make_batch)
    with pytest.raises(InputError, match="inputs inputs_embeds, position_ids are unknown; valid: input_ids, attention"):
        kind.from_decoder(tiny_decoder())(ids, mask, inputs_embeds=None, position_ids=None)


def test_a_number_of_labels_that_the_head_does_not_have_gives_no_loss(tiny_decoder, make_batch):
    model = adapted(GemmaEncoderForSequenceClassification, tiny_decoder(), num_labels=3)
    model.config.num_labels = 1
    with pytest.raises(InputError, match="num_labels is 1, the head has 3 outputs; valid: 3"):
        model(*make_batch([5, 9]), labels=torch.rand(2))


@pytest.mark.parametrize(
    ("kind", "settings", "labels", "says"),
    [
        (
            GemmaEncoderForSequenceClassification,
            {"num_labels": 3},
            [0, 3, 0, 0],
            r"labels .* do not fit; valid: 0 to 2",
        ),
        (GemmaEncoderForSequenceClassification, {"num_labels": 3}, [0.5] * 4, r"float32 do not fit 3 classes"),
        (GemmaEncoderForSequenceClassification, {"num_labels": 1}, [[1.0]] * 4, r"shape \(4, 1\); valid: \(4,\)"),
        (GemmaEncoderForRanking, {}, [0, 2], r"labels \[2\] do not fit; valid: 0 to 1"),
        (GemmaEncoderForRanking, {}, [[1, 0], [0, 0]], r"rows \[1\] hold no relevant passage"),
        (GemmaEncoderForRanking, {}, [[1, 0, 0]] * 2, r"labels of shape \(2, 3\); valid: \(2, 2\)"),
        (GemmaEncoderForTokenClassification, {"num_labels": 3}, [[3] * 9] * 4, r"do not fit; valid: 0 to 2"),
        (GemmaEncoderForTokenClassification, {"num_labels": 3}, [0] * 4, r"labels of shape \(4,\); valid: \(4, 9\)"),
    ],
)
def test_labels_that_do_not_fit_the_head_are_named(tiny_decoder, make_batch, kind, settings, labels, says):
    with pytest.raises(InputError, match=says):
        adapted(kind, tiny_decoder(), **settings)(*inputs_for(kind, make_batch), torch.tensor(labels))


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        (GemmaEncoderForRanking, {"num_labels": 3}, "num_labels 3 does not fit a ranking head; valid: 1"),
        (GemmaEncoderForRanking, {"ranking_loss": "hinge"}, r"unknown ranking_loss 'hinge'.*listwise_softmax"),
        (GemmaEncoderForTokenClassification, {"pooling": "last"}, "pooling 'last' does not fit a token head"),
    ],
)
def test_settings_that_do_not_fit_the_head_are_named(tiny_decoder, kind, settings, says):
    with pytest.raises(InputError, match=says):
        kind.from_decoder(tiny_decoder(), **settings)


@pytest.mark.parametrize("name", ["listwise_softmax", "pointwise_logistic"])
def test_a_right_candidate_in_an_empty_slot_is_named(tiny_decoder, lists, name):
    ids, mask, _ = lists
    with pytest.raises(InputError, match=r"rows \[1\] have a label that names an empty slot"):
        adapted(GemmaEncoderForRanking, tiny_decoder(), ranking_loss=name)(ids, mask, torch.tensor([0, 2]))


def test_lists_of_another_shape_and_lists_without_a_candidate_are_named(tiny_decoder, lists):
    model = adapted(GemmaEncoderForRanking, tiny_decoder())
    ids, mask, _ = lists
    with pytest.raises(InputError, match=r"input_ids of shape \(3, 9\); valid: \(batch, list, seq\)"):
        model(ids[0], mask[0])
    with pytest.raises(InputError, match=r"attention_mask of shape \(2, 2, 9\); valid: \(2, 3, 9\)"):
        model(ids, mask[:, :2])
    with pytest.raises(InputError, match=r"rows \[0\] hold no passage"):
        model(ids, mask * torch.tensor([0, 1])[:, None, None])


# saving and loading


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_come_back_equal_through_every_door(tiny_decoder, make_batch, tmp_path, kind):
    model = adapted(kind, tiny_decoder(), text_columns=["premise", "hypothesis"], ranking_loss="pointwise_logistic")
    batch = inputs_for(kind, make_batch)
    before = model(*batch).logits
    model.save_pretrained(tmp_path)
    for door in (kind.from_pretrained, AUTO[kind].from_pretrained, load_model):
        loaded = door(tmp_path).eval()
        assert type(loaded) is kind
        assert torch.equal(loaded(*batch).logits, before)
        assert loaded.config.text_columns == ["premise", "hypothesis"]
        assert loaded.config.ranking_loss == "pointwise_logistic"
        assert loaded.config.num_labels == model.config.num_labels


def test_load_model_takes_an_encoder_and_refuses_a_class_it_does_not_know(tiny_decoder, tmp_path):
    GemmaEncoder.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    assert type(load_model(tmp_path)) is GemmaEncoder
    config = GemmaEncoderConfig.from_pretrained(tmp_path)
    config.architectures = ["SomeOtherHead"]
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"unknown class of checkpoint .*'SomeOtherHead'.*GemmaEncoderForRanking"):
        load_model(tmp_path)
    tiny_decoder().save_pretrained(tmp_path / "decoder")
    with pytest.raises(InputError, match="is a 'gemma2', not adapted yet"):
        load_model(tmp_path / "decoder")


def test_a_ranking_checkpoint_is_a_scorer_of_single_rows(tiny_decoder, lists, tmp_path):
    model = adapted(GemmaEncoderForRanking, tiny_decoder())
    model.save_pretrained(tmp_path)
    ids, mask, _ = lists
    scorer = GemmaEncoderForSequenceClassification.from_pretrained(tmp_path).eval()
    scores = scorer(ids[0], mask[0]).logits[:, 0]
    torch.testing.assert_close(scores, model(ids[:1], mask[:1]).logits[0], atol=2e-6, rtol=0)


def test_the_public_names_lead_somewhere():
    for name in gemma_encoder.__all__:
        assert getattr(gemma_encoder, name).__name__ == name


# training


def ranking_lists(make_batch, count):
    """Lists of 3, 2 and 1 candidates in turn; the relevant one of a list holds token 90 twice."""
    examples = []
    for i in range(count):
        ids = make_batch([4] * 3, spare=i % 3)[0]
        ids[:, 0], ids[i % (3 - i % 3), 1:3] = 3 + i, 90
        mask = torch.ones_like(ids)
        mask[3 - i % 3 :] = 0
        examples.append(
            {"input_ids": ids, "attention_mask": mask, "labels": F.one_hot(torch.tensor(i % (3 - i % 3)), 3)}
        )
    return examples


def tagged_rows(make_batch, count):
    """Whether a token stands in the upper half of the vocabulary; the first token has no label."""
    examples = []
    for i in range(count):
        ids = make_batch([3 + i % 4])[0][0].roll(i)
        labels = (ids > 48).long()
        labels[0] = -100
        examples.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return examples


def pad_and_stack(examples):
    """Examples as a batch; rows are padded on the right to the longest."""
    width = max(example["input_ids"].shape[-1] for example in examples)

    def stacked(name, fill):
        rows = [example[name] for example in examples]
        return torch.stack([F.pad(row, (0, max(0, width - row.shape[-1])), value=fill) for row in rows])

    listed = examples[0]["input_ids"].dim() == 2
    labels = torch.stack([example["labels"] for example in examples]) if listed else stacked("labels", -100)
    return {"input_ids": stacked("input_ids", 0), "attention_mask": stacked("attention_mask", 0), "labels": labels}


def trained(model, examples, folder, **settings):
    arguments = TrainingArguments(
        folder, use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True, lr_scheduler_type="constant",
        max_grad_norm=0, logging_steps=1, **settings,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=examples, eval_dataset=examples, data_collator=pad_and_stack)
    return trainer, trainer.train().training_loss


CASES = pytest.mark.parametrize(
    ("kind", "settings", "make"),
    [
        (GemmaEncoderForRanking, {"ranking_loss": "listwise_softmax"}, ranking_lists),
        (GemmaEncoderForRanking, {"ranking_loss": "pointwise_logistic"}, ranking_lists),
        (GemmaEncoderForTokenClassification, {"num_labels": 2}, tagged_rows),
    ],
    ids=["listwise", "pointwise", "tokens"],
)


@CASES
def test_accumulated_small_batches_make_the_update_of_one_big_batch(
    tiny_decoder, make_batch, tmp_path, kind, settings, make
):
    results = []
    for size, accumulation in ((8, 1), (2, 4)):
        model = adapted(kind, tiny_decoder(), attention_dropout=0, ffn_dropout=0, **settings)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        _, loss = trained(
            model, make(make_batch, 8), tmp_path, max_steps=1, per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation, optim="sgd", learning_rate=0.1,
        )  # fmt: skip
        updates = [after.detach() - start for after, start in zip(model.parameters(), before, strict=True)]
        results.append((loss, updates))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert max(update.abs().max().item() for update in results[0][1]) > 1e-3
    torch.testing.assert_close(results[0][1], results[1][1], atol=2e-6, rtol=0)


@CASES
def test_sixteen_examples_are_learnt_by_heart_and_evaluated(tiny_decoder, make_batch, tmp_path, kind, settings, make):
    model = kind.from_decoder(
        tiny_decoder("llama", initializer_range=0.1), attention_dropout=0, ffn_dropout=0, **settings
    )
    trainer, _ = trained(
        model, make(make_batch, 16), tmp_path, max_steps=40, per_device_train_batch_size=16, learning_rate=5e-3,
        weight_decay=0,
    )  # fmt: skip
    assert trainer.evaluate()["eval_loss"] < 0.05
    answers = trainer.predict(trainer.eval_dataset)
    if kind is GemmaEncoderForRanking:
        assert (answers.predictions.argmax(1) == answers.label_ids.argmax(1)).all()
