"""What no pooled vector needs is not computed, and nothing that is read changes by it."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification
from gemma_encoder.errors import InputError
from gemma_encoder.families import DECODERS, attention_modules, ffn_modules

LENGTHS = [9, 3, 14, 2]


def watch(model):
    """A list that fills with how many tokens the linear layers of each feed-forward block see."""
    seen = []
    for ffn in ffn_modules(model.backbone):
        linear = next(module for module in ffn.modules() if isinstance(module, torch.nn.Linear))
        linear.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[:-1].numel()))
    return seen


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("unpadded", [True, False])
@pytest.mark.parametrize(("pooling", "read"), [("last", 4), ("first-2", 8), ("last-2", 8), ("mean", None)])
@pytest.mark.parametrize("family", sorted(DECODERS))
def test_the_vectors_are_those_of_the_whole_pass(tiny_decoder, make_batch, family, pooling, read, unpadded, side):
    model = GemmaEncoder.from_decoder(tiny_decoder(family), pooling=pooling, unpadded=unpadded).eval()
    ids, mask = make_batch(LENGTHS, side=side)
    seen, whole = watch(model), model(ids, mask)
    slots = sum(LENGTHS) if unpadded else mask.numel()
    assert seen == [slots] * len(seen)
    seen.clear()
    only = model(ids, mask, only_pooled=True)
    torch.testing.assert_close(only.pooler_output, whole.pooler_output, atol=1e-6, rtol=1e-5)
    assert seen == [slots] * (len(seen) - 1) + [read or slots]
    assert (only.last_hidden_state is None) == (read is not None)
    torch.testing.assert_close(model(ids, mask).last_hidden_state, whole.last_hidden_state, atol=0, rtol=0)


@pytest.mark.parametrize("unpadded", [True, False])
@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_vectors_are_right_where_layers_were_put_in_another_order(tiny_decoder, make_batch, family, unpadded):
    model = GemmaEncoder.from_decoder(tiny_decoder(family), pooling="last", local_layers="open", unpadded=unpadded)
    model.backbone.layers = torch.nn.ModuleList(reversed(model.backbone.layers))
    batch = make_batch(LENGTHS)
    only, whole = (model.eval()(*batch, only_pooled=only).pooler_output for only in (True, False))
    torch.testing.assert_close(only, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("again", [False, True], ids=["adapted once", "adapted anew"])
@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_vectors_are_right_where_the_last_layer_was_copied(tiny_decoder, make_batch, family, again):
    model = GemmaEncoder.from_decoder(tiny_decoder(family), pooling="last", local_layers="open")
    model.backbone.layers[1] = copy.deepcopy(model.backbone.layers[-1])
    if again:
        model = GemmaEncoder.from_decoder(model.backbone, pooling="last", local_layers="open")
    batch = make_batch(LENGTHS)
    only, whole = (model.eval()(*batch, only_pooled=only).pooler_output for only in (True, False))
    torch.testing.assert_close(only, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("way", ["backbone.compile", "torch.compile(backbone)", "torch.compile(layer)"])
@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_vectors_are_right_where_parts_were_compiled_by_hand(graphs, tiny_decoder, make_batch, family, way):
    model = GemmaEncoder.from_decoder(tiny_decoder(family, num_hidden_layers=2), pooling="last").eval()
    batches = [make_batch(lengths, side="left") for lengths in (LENGTHS, [4, 4, 1])]
    with torch.no_grad():
        expected = [model(*batch).pooler_output for batch in batches]
        if way == "backbone.compile":
            model.backbone.compile(backend="eager")
        elif way == "torch.compile(backbone)":
            model.backbone = torch.compile(model.backbone, backend="eager")
        else:
            for at, layer in enumerate(model.backbone.layers):
                model.backbone.layers[at] = torch.compile(layer, backend="eager", dynamic=True)
        for batch, vectors in zip(batches, expected, strict=True):
            torch.testing.assert_close(model(*batch, only_pooled=True).pooler_output, vectors, atol=1e-5, rtol=1e-4)
    assert graphs() > 0


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_a_decoder_of_one_layer_says_that_it_belongs_to_an_encoder(tiny_decoder, make_batch, family):
    model = GemmaEncoder.from_decoder(tiny_decoder(family, num_hidden_layers=1), pooling="last")
    with pytest.raises(RuntimeError, match="belongs to a GemmaEncoder"):
        model.backbone(make_batch(LENGTHS)[0])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["gemma2", "gpt_neox"])
def test_loss_and_every_gradient_are_those_of_the_whole_pass(tiny_decoder, make_batch, family, checkpointing):
    model = GemmaEncoderForSequenceClassification.from_decoder(
        tiny_decoder(family), pooling="last", attention_dropout=0.0, ffn_dropout=0.0
    ).train()
    model = copy.deepcopy(model)  # hooks have to find the modules of the copy
    if checkpointing:
        model.activation_checkpointing_enable()
    ids, mask = make_batch(LENGTHS)
    seen, labels = watch(model.encoder), torch.tensor([1, 0, 1, 1])
    model(ids, mask, labels=labels).loss.backward()
    assert seen.count(len(LENGTHS)) == 1 + checkpointing, "the last block was not spared, or not when it ran again"
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.loss(model.head(model.encoder(ids, mask).pooler_output), labels).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_checkpointing_reads_again_what_each_batch_read(tiny_decoder, make_batch):
    """Also when another batch ran in between, and in the thread of a device, which has seen neither."""
    found, batches = [], [make_batch(LENGTHS), make_batch([5, 11])]
    for checkpointing in (False, True):
        model = GemmaEncoder.from_decoder(tiny_decoder(), pooling="last", attention_dropout=0.0, ffn_dropout=0.0)
        if checkpointing:
            model.train().activation_checkpointing_enable()
        loss = sum(model(*batch, only_pooled=True).pooler_output.square().mean() for batch in batches)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(loss.backward).result()
        found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


def test_threads_that_share_a_model_read_their_own_batches(tiny_decoder, make_batch):
    """One waits inside the last layer, until the other has run a batch of another shape."""
    model = GemmaEncoder.from_decoder(tiny_decoder(), pooling="last").eval()
    batches = [make_batch(LENGTHS), make_batch([5, 11])]
    main, inside, go = threading.current_thread(), threading.Event(), threading.Event()

    def hold(module, inputs):
        if threading.current_thread() is not main:
            inside.set()
            assert go.wait(60)

    attention_modules(model.backbone)[-1].register_forward_pre_hook(hold)
    alone = [model(*batch, only_pooled=True).pooler_output for batch in batches]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: model(*batches[1], only_pooled=True).pooler_output)
        assert inside.wait(60)
        mine = model(*batches[0], only_pooled=True).pooler_output
        go.set()
        assert torch.equal(other.result(), alone[1])
    assert torch.equal(mine, alone[0])


def test_states_that_are_asked_for_are_whole(tiny_decoder, make_batch):
    model = GemmaEncoder.from_decoder(tiny_decoder(), pooling="last").eval()
    ids, mask = make_batch(LENGTHS)
    whole = model(ids, mask, output_hidden_states=True).hidden_states
    only = model(ids, mask, output_hidden_states=True, only_pooled=True).hidden_states
    assert all(map(torch.equal, only, whole))


def test_a_row_that_is_too_short_is_refused_as_by_the_pooler(tiny_decoder, make_batch):
    model = GemmaEncoder.from_decoder(tiny_decoder(), pooling="last-3")
    with pytest.raises(InputError, match="hold fewer than 3 tokens"):
        model(*make_batch(LENGTHS), only_pooled=True)
