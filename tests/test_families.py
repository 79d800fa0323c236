"""Every family: adapted, measured, trained, saved and loaded; what cannot be adapted is refused by name."""

import ast
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    MambaConfig,
    MambaModel,
    T5Config,
    T5EncoderModel,
)

import gemma_encoder
from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification, check_visibility
from gemma_encoder.attention import IMPLEMENTATION, encoder_attention
from gemma_encoder.errors import InputError
from gemma_encoder.families import (
    ENCODERS,
    FAMILIES,
    SOFTCAP,
    attention_modules,
    check_family,
    ffn_modules,
    layer_windows,
    layers,
)
from gemma_encoder.masks import reach

every_family = pytest.mark.parametrize("family", sorted(FAMILIES))
LENGTHS = [9, 1, 5, 12]


@every_family
@pytest.mark.parametrize("unpadded", [True, False], ids=["unpadded", "padded"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_what_the_tokens_see_is_what_was_asked_for(tiny_decoder, family, attention, unpadded):
    model = GemmaEncoder.from_decoder(tiny_decoder(family), attention=attention, unpadded=unpadded)
    measured = check_visibility(model)
    assert torch.equal(measured, reach(model.masks, 8))
    future = measured[-1].triu(1)
    assert not future.any() if attention == "causal" else future.any(dim=1)[:-1].all()


@every_family
def test_three_steps_train_every_weight_and_a_reload_is_equal(tiny_decoder, make_batch, tmp_path, family):
    torch.manual_seed(0)
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(family), num_labels=3).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer, batch = torch.optim.AdamW(model.parameters(), lr=1e-2), make_batch(LENGTHS)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(*batch, labels=torch.tensor([0, 1, 2, 1])).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert still == []
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    logits = model.eval()(*batch).logits
    for cycle in range(3):
        model.save_pretrained(tmp_path / str(cycle))
        model = GemmaEncoderForSequenceClassification.from_pretrained(tmp_path / str(cycle)).eval()
        assert torch.equal(model(*batch).logits, logits)
        assert layer_windows(model.config.decoder) == layer_windows(tiny_decoder(family).config)
        check_visibility(model)


@every_family
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_language_model_gives_every_bit_of_its_decoder(tiny_config, tmp_path, caplog, family, tied):
    torch.manual_seed(1)
    language_model = AutoModelForMaskedLM if family in ENCODERS else AutoModelForCausalLM
    whole = language_model.from_config(tiny_config(family, tie_word_embeddings=tied))
    whole.save_pretrained(tmp_path)
    caplog.clear()
    backbone = GemmaEncoder.from_decoder(tmp_path).backbone
    assert caplog.records == [], "the weights of the language-model head are no news"
    kept, loaded = whole.base_model.state_dict(), backbone.state_dict()
    assert kept.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], value) for name, value in kept.items())


@pytest.mark.parametrize(
    ("family", "windows"),
    [
        ("gemma", [None] * 4),
        ("gemma2", [4, None, 4, None]),
        ("gemma3_text", [4, None, 4, None]),
        ("gpt_neox", [None] * 4),
        ("llama", [None] * 4),
        ("mistral", [4] * 4),
        ("modernbert", [None, 5, None, 5]),  # at distances up to 4
        ("modernbert-decoder", [None, 4, None, 4]),
        ("qwen2", [None, None, 4, 4]),
        ("qwen3", [None, None, 4, 4]),
    ],
)
def test_layer_windows_are_those_of_the_decoder(tiny_config, family, windows):
    assert layer_windows(tiny_config(family)) == windows


@every_family
def test_every_layer_has_one_attention_and_one_feed_forward_module(tiny_decoder, family):
    backbone = tiny_decoder(family)
    assert len({id(module) for module in attention_modules(backbone)}) == 4
    assert len({id(module) for module in ffn_modules(backbone)}) == 4


# what we rely on inside transformers: where a name goes or changes, the test of that name fails

PACKAGES = ("transformers", "peft", "sentence_transformers")
IMPORTED = {
    "attention": ["AttentionInterface", "PreTrainedModel"],
    "built": ["PreTrainedModel"],
    "gemma2": [
        "activations.GELUTanh", "models.gemma2.modeling_gemma2.Gemma2Attention",
        "models.gemma2.modeling_gemma2.Gemma2DecoderLayer", "models.gemma2.modeling_gemma2.Gemma2MLP",
        "models.gemma2.modeling_gemma2.Gemma2RotaryEmbedding",
    ],
    "configuration": ["AutoConfig", "PreTrainedConfig", "configuration_utils.SubConfigSpec"],
    "dropout": ["PreTrainedModel"],
    "exchange": ["PreTrainedModel"],
    "experiments/pace": [
        "AutoModel", "PreTrainedConfig", "Trainer", "TrainerCallback", "trainer_callback.PrinterCallback",
    ],
    "experiments/pretrain": ["Gemma2Config", "Gemma2ForCausalLM", "PreTrainedTokenizerFast"],
    "experiments/probes": ["AutoModelForCausalLM", "PreTrainedModel", "PreTrainedTokenizerBase"],
    "experiments/run": [
        "PreTrainedModel", "PreTrainedTokenizerBase", "Trainer", "TrainingArguments", "set_seed",
        "trainer_callback.PrinterCallback",
    ],
    "experiments/shapes": ["AutoConfig", "PreTrainedConfig"],
    "experiments/untrained": ["AutoModelForCausalLM", "utils.logging"],
    "experiments/watch": ["TrainerCallback"],
    "export": [
        "PreTrainedTokenizerBase", "sentence_transformers.CrossEncoder", "sentence_transformers.SentenceTransformer",
        "sentence_transformers.base.modules.Transformer",
    ],
    "families": ["PreTrainedConfig", "PreTrainedModel"],
    "heads": [
        "AutoModelForMultipleChoice", "AutoModelForSequenceClassification", "AutoModelForTokenClassification",
        "PreTrainedModel", "modeling_outputs.BaseModelOutputWithPooling", "modeling_outputs.MultipleChoiceModelOutput",
        "modeling_outputs.SequenceClassifierOutput", "modeling_outputs.TokenClassifierOutput", "utils.can_return_tuple",
    ],
    "inference": ["PreTrainedTokenizerBase"],
    "inputs": ["PreTrainedConfig"],
    "loading": [
        "AutoConfig", "AutoModel", "AutoTokenizer", "PreTrainedConfig", "PreTrainedModel", "PreTrainedTokenizerBase",
        "utils.cached_file", "utils.extract_commit_hash", "utils.logging",
    ],
    "lora": [
        "PreTrainedModel", "peft.LoraConfig", "peft.PeftModel", "peft.get_peft_model",
        "peft.get_peft_model_state_dict", "peft.tuners.tuners_utils.BaseTunerLayer",
    ],
    "model": [
        "AutoModel", "PreTrainedModel",
        "modeling_outputs.BaseModelOutput", "modeling_outputs.BaseModelOutputWithPooling", "utils.can_return_tuple",
    ],
    "norm": [
        "models.gemma.modeling_gemma.GemmaRMSNorm", "models.gemma2.modeling_gemma2.Gemma2RMSNorm",
        "models.gemma3.modeling_gemma3.Gemma3RMSNorm",
    ],
    "tasks/answers": ["PreTrainedTokenizerBase"],
    "tasks/encode": ["PreTrainedTokenizerBase"],
    "tokens": ["PreTrainedTokenizerBase"],
    "unread": ["PreTrainedModel"],
}  # fmt: skip
CONFIG = (
    "_attn_implementation",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
    "use_cache",
)
MEMBERS = {
    "AttentionInterface": ["register"],
    "TrainingArguments": ["n_gpu", "train_batch_size"],
    "PreTrainedModel": ["base_model", "get_input_embeddings", "post_init", "set_attn_implementation", "_init_weights"],
    "utils.logging": ["disable_progress_bar", "get_verbosity", "set_verbosity", "set_verbosity_error"],
}


def upstream(name):
    """The object called `name`, in transformers where it does not begin with another package."""
    *module, last = name.split(".")
    module = module if module[:1] and module[0] in PACKAGES else ["transformers", *module]
    return getattr(import_module(".".join(module)), last)


@pytest.mark.parametrize("name", sorted({name for names in IMPORTED.values() for name in names}))
def test_a_name_that_we_import_is_there(name):
    assert [member for member in MEMBERS.get(name, ()) if not hasattr(upstream(name), member)] == []


def test_from_upstream_comes_what_is_listed_and_no_more():
    found, root = {}, Path(gemma_encoder.__file__).parent
    for path in root.rglob("*.py"):
        where = path.relative_to(root).with_suffix("").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                module = node.module.removeprefix("transformers").removeprefix(".")
                names = [f"{module}.{alias.name}" if module else alias.name for alias in node.names]
                found[where] = sorted(found.get(where, []) + names)
            if isinstance(node, ast.Import) and where != "experiments/run":  # which notes the version
                assert not any(alias.name.split(".")[0] in PACKAGES for alias in node.names), where
    assert found == {module: sorted(names) for module, names in IMPORTED.items()}


@every_family
@pytest.mark.parametrize("name", CONFIG)
def test_a_setting_that_we_read_is_there(tiny_config, family, name):
    assert hasattr(tiny_config(family), name) or (family in ENCODERS and name == "use_cache")


@every_family
def test_attention_is_called_with_what_we_need(tiny_decoder, make_batch, monkeypatch, family):
    """Every layer hands through `visibility` and `scaling`, Gemma 2 its `softcap`, and gets our output back."""
    calls = []
    model = GemmaEncoder.from_decoder(tiny_decoder(family), unpadded=False).eval()  # packed, Gemma 2 has its own way

    def spy(module, query, key, value, attention_mask, scaling, **rest):
        calls.append({name for name, setting in rest.items() if setting is not None} | {"scaling"})
        return encoder_attention(module, query, key, value, attention_mask, scaling, **rest)

    monkeypatch.setitem(AttentionInterface._global_mapping, IMPLEMENTATION, spy)
    model(*make_batch(LENGTHS))
    needed = {"scaling", "visibility"} | ({"softcap"} if family == "gemma2" else set())
    assert len(calls) == len(layers(model.backbone)) == 4
    assert all(needed <= call for call in calls)
    if family == "gemma2":
        assert {getattr(module, SOFTCAP) for module in attention_modules(model.backbone)} == {2.0}
        assert getattr(model.config.decoder, SOFTCAP) == 2.0


SMALL = {"vocab_size": 97, "num_hidden_layers": 1, "hidden_size": 32}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (T5EncoderModel, T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)),
        (BertModel, BertConfig(**SMALL, num_attention_heads=4, intermediate_size=64)),
        (MambaModel, MambaConfig(**SMALL, state_size=4)),
        (GPT2Model, GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=4)),
    ],
)
def test_other_families_are_refused_by_name_as_config_object_and_folder(kind, config, tmp_path):
    says = rf"cannot adapt a '{config.model_type}' model; valid: gemma, gemma2, gemma3_text, .*qwen3"
    with pytest.raises(InputError, match=says):
        check_family(config)
    model = kind(config)
    with pytest.raises(InputError, match=says):
        GemmaEncoder.from_decoder(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=says):
        GemmaEncoderForSequenceClassification.from_decoder(tmp_path)


def test_a_layer_type_without_a_known_mask_is_refused(tiny_decoder):
    decoder = tiny_decoder("llama")
    decoder.config.layer_types = ["full_attention", "chunked_attention"] * 2
    with pytest.raises(InputError, match=r"layers of type \['chunked_attention'\]; valid: full_attention, sliding"):
        GemmaEncoder.from_decoder(decoder)
