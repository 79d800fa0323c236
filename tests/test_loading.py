"""Loading: what is wrong with a checkpoint is said in one line, at once, and nothing foreign runs."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification, load_model, loading
from gemma_encoder.errors import InputError
from gemma_encoder.experiments.shapes import SHAPES, shape_of
from gemma_encoder.families import FAMILIES, ffn_modules
from gemma_encoder.hub import reachable
from gemma_encoder.loading import load_decoder, load_tokenizer, model_digest

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_decoder, tmp_path):
    """A saved decoder."""
    tiny_decoder().save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


@pytest.fixture
def online():
    """The hub is not switched off; what was found out about it is forgotten before and after."""
    reachable.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        yield patch
    reachable.cache_clear()


def refused(name):
    """The one line with which the decoder `name` is refused."""
    with pytest.raises(InputError) as error:
        load_decoder(name, torch.float32)
    said = str(error.value)
    assert "\n" not in said
    return said


def test_a_good_folder_loads_as_path_and_as_text(folder):
    for name in (folder, str(folder), f"{folder}/"):
        assert load_decoder(name, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/no/such/folder", "a/b/c", "", "~/no-such-folder"])
def test_a_bad_path_is_named_with_the_valid_ones(name):
    valid = "'tiny', a checkpoint folder, or a hub name owner/model or owner/model@revision"
    assert refused(name) == f"no model at {name!r}; valid: {valid}"


def test_a_folder_without_configuration(folder):
    (folder / "config.json").unlink()
    assert refused(folder) == f"model folder '{folder}' has no config.json; valid: a folder in transformers' format"


@pytest.mark.parametrize("other", [None, "pytorch_model.bin"])
def test_a_folder_without_safetensors(folder, other):
    (folder / WEIGHTS).unlink()
    if other:
        torch.save({}, folder / other)
    assert refused(folder) == f"model folder '{folder}' has no weights; valid: a folder with *.safetensors files"


def test_a_hub_name_without_network_fails_at_once_and_names_the_way_out():
    start = time.perf_counter()
    assert refused("owner/model") == (
        "no network for hub model 'owner/model'; valid without network: a checkpoint folder, or --model tiny"
    )
    with pytest.raises(InputError, match="no network for hub model 'owner/model'"):
        GemmaEncoderForSequenceClassification.from_pretrained("owner/model")
    with pytest.raises(InputError, match="no network for hub model 'owner/model'"):
        load_tokenizer("owner/model")
    assert time.perf_counter() - start < 10  # retries would take 20 s and more


def test_a_hub_that_refuses_connections_fails_at_once(online):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        online.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    start = time.perf_counter()
    assert not reachable()
    assert refused("owner/model").startswith("no network for hub model 'owner/model'")
    assert time.perf_counter() - start < 10  # retries would take 20 s and more


def test_a_hub_that_listens_is_reachable_and_asked_once(online):
    with socket.create_server(("127.0.0.1", 0)) as server:
        online.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert reachable()
    assert reachable(), "asked a second time"


def test_a_switched_off_hub_is_not_asked(online):
    with socket.create_server(("127.0.0.1", 0)) as server:
        online.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        online.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not reachable()


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as serves the model owner/model."""

    wanted = re.compile(r"/(?:api/models/)?owner/model(?:/(revision|resolve|tree)/([^/?]+)/?([^?]*))?")
    revisions: dict[str, str]  # a name, or a commit itself: the commit
    commits: dict[str, dict[str, bytes]]  # the files of each
    asked: list[str]  # the revisions that a client wanted

    def answer(self):
        found = self.wanted.match(self.path)
        kind, revision, name = found.groups(default="") if found else ("", "", "")
        if found:
            kind, revision = kind or "revision", revision or "main"
            self.asked.append(revision)
        commit = self.revisions.get(revision)
        code, body, headers = 404, b"", {"X-Error-Code": "EntryNotFound" if commit else "RevisionNotFound"}
        if commit and kind == "revision":
            code, body = 200, json.dumps({"id": "owner/model", "sha": commit, "siblings": []}).encode()
        elif commit and kind == "resolve" and name in self.commits[commit]:
            code, body = 200, self.commits[commit][name]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        self.send_response(code)
        for key, value in {**headers, "X-Repo-Commit": commit or "", "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = answer  # noqa: N815

    def log_message(self, *args):
        """Quiet."""


FIRST, SECOND = "1" * 37 + "403", "2" * 40  # digits that are no HTTP status
ASK = """
import json, sys, torch
from gemma_encoder import InputError, load_tokenizer
from gemma_encoder.loading import load_decoder, model_digest
for name in sys.argv[1:]:
    try:
        weights = load_decoder(name, torch.float32).norm.weight.tolist()
        said = [weights[0], sorted(load_tokenizer(name).get_vocab())[0], model_digest(name)]
    except InputError as error:
        said = str(error)
    print(json.dumps(said))
"""


@pytest.fixture
def hub(tiny_decoder, tmp_path):
    """A hub with owner/model at two commits, "v1" and "main".

    A function `(*names)` that asks a fresh process for a weight, a word and the digest of each, or the error.
    """
    for number, commit in enumerate((FIRST, SECOND), start=1):
        decoder = tiny_decoder()
        torch.nn.init.constant_(decoder.norm.weight, number)
        decoder.save_pretrained(tmp_path / commit)
        words = Tokenizer(WordLevel({commit: 0, "<end>": 1, "<unk>": 2}, unk_token="<unk>"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(tmp_path / commit)
    Hub.commits = {c: {path.name: path.read_bytes() for path in (tmp_path / c).iterdir()} for c in (FIRST, SECOND)}
    Hub.revisions, Hub.asked = {"v1": FIRST, "main": SECOND, FIRST: FIRST, SECOND: SECOND}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keep = {key: value for key, value in os.environ.items() if not key.lower().startswith(("hf_", "http", "all_proxy"))}
    env = keep | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)

    def ask(*names):
        done = subprocess.run([sys.executable, "-c", ASK, *names], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    yield ask
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_taken_at_its_revision_also_from_an_earlier_download(hub, tmp_path, monkeypatch):
    missing = FIRST.replace("1", "3")
    *found, unknown, latest = hub("owner/model@v1", f"owner/model@{FIRST}", f"owner/model@{missing}", "owner/model")
    assert found == [[1, FIRST, FIRST]] * 2
    assert latest == [2, SECOND, SECOND]
    assert set(Hub.asked[: Hub.asked.index("main")]) == {"v1", FIRST, missing}
    assert unknown.startswith(f"cannot load hub model 'owner/model@{missing}': {missing} is not a valid git identifier")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, number, commit in (("@v1", 1, FIRST), (f"@{SECOND}", 2, SECOND), ("", 2, SECOND)):
        assert load_decoder(f"owner/model{name}", torch.float32).norm.weight[0] == number
        assert model_digest(f"owner/model{name}") == commit
    assert refused("owner/model@v2").startswith("no network for hub model 'owner/model@v2'")
    loading._commit.cache_clear()


def test_an_adapted_checkpoint_is_read_where_from_pretrained_is_told(tiny_decoder, folder, tmp_path):
    """An earlier download whose main branch holds a decoder, and whose v1 what was made of it."""
    cache = tmp_path / "cache/models--owner--model"
    (cache / "refs").mkdir(parents=True)
    for name, commit in (("v1", FIRST), ("main", SECOND)):
        (cache / "refs" / name).write_text(commit)
    shutil.copytree(folder, cache / "snapshots" / SECOND)
    GemmaEncoder.from_decoder(tiny_decoder(), pooling="last").save_pretrained(cache / "snapshots" / FIRST)
    found = GemmaEncoder.from_pretrained("owner/model", revision="v1", cache_dir=cache.parent)
    assert found.config.pooling == "last"
    assert load_model("owner/model", revision="v1", cache_dir=cache.parent).config.pooling == "last"
    with pytest.raises(InputError, match="checkpoint 'owner/model' is a 'gemma2', not adapted yet"):
        GemmaEncoder.from_pretrained("owner/model", cache_dir=cache.parent)


def test_a_configuration_that_transformers_refuses_is_one_line(folder):
    config = json.loads((folder / "config.json").read_text())
    for wrong, says in (({"num_attention_heads": 3}, "not a multiple"), ({"hidden_size": "abc"}, "hidden_size")):
        (folder / "config.json").write_text(json.dumps(config | wrong))
        said = refused(folder)
        assert said.startswith(f"cannot load {str(folder)!r}: ") and says in said
        with pytest.raises(InputError, match="cannot load"):
            shape_of(str(folder))


def test_an_adapted_configuration_without_a_decoder_is_one_line(tiny_decoder, tmp_path):
    GemmaEncoder.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"decoder": "x"}))
    with pytest.raises(InputError, match="decoder 'x' is not valid; valid: the configuration of a decoder"):
        GemmaEncoder.from_pretrained(tmp_path)


def test_an_empty_revision_is_refused():
    valid = "owner/model@COMMIT, or owner/model"
    assert refused("owner/model@") == f"model 'owner/model@' has an empty revision; valid: {valid}"


def test_a_folder_with_an_at_in_its_name_is_a_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "mine").mkdir()
    shutil.copytree(folder, "mine/run@1")
    for name in ("mine/run@1", folder.rename("run@2")):
        assert load_decoder(name, torch.float32).dtype == torch.float32
    assert model_digest("mine/run@1") == model_digest("run@2")


def test_a_revision_has_the_shape_of_its_model(folder, monkeypatch):
    assert shape_of("google/gemma-2-2b@v1") == SHAPES["google/gemma-2-2b"]
    with pytest.raises(InputError, match="no shape is known of model 'owner/model@v1'"):
        shape_of("owner/model@v1")
    monkeypatch.chdir(folder.parent)
    (folder.parent / "google").mkdir()
    folder.rename("google/gemma-2-2b@v1")
    assert shape_of("google/gemma-2-2b@v1").width == 32


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda weights: weights.pop("layers.1.mlp.up_proj.weight"), "lacks weights for Gemma2Model: layers.1.mlp.up"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "has unknown weights for Gemma2Model: extra"),
        (lambda weights: weights.update({"norm.weight": torch.zeros(5)}), "norm.weight (32,) (has (5,))"),
    ],
)
def test_a_decoder_with_weights_lost_foreign_or_of_another_size(folder, edit, says):
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert says in refused(folder)


def test_a_classifier_of_transformers_is_no_decoder(folder):
    weights = load_file(folder / WEIGHTS) | {"score.weight": torch.zeros(2, 32)}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert "has unknown weights for Gemma2Model: score.weight" in refused(folder)


def test_damaged_files(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    assert refused(folder).startswith(f"cannot load '{folder}': ")
    (folder / WEIGHTS).write_bytes(whole)
    (folder / "config.json").write_text("{half")
    assert refused(folder).startswith(f"cannot load '{folder}': ")
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    assert refused(folder).startswith(f"cannot load '{folder}': ")


def test_code_in_a_checkpoint_does_not_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "foreign.Config", "AutoModel": "foreign.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    refused(folder)
    assert not (tmp_path / "ran").exists()


def test_a_decoder_is_not_an_adapted_checkpoint_and_the_other_way_round(folder, tmp_path):
    with pytest.raises(InputError, match="is a 'gemma2', not adapted yet"):
        GemmaEncoderForSequenceClassification.from_pretrained(folder)
    GemmaEncoder.from_decoder(folder).save_pretrained(tmp_path / "adapted")
    assert "cannot adapt a 'gemma_encoder' model" in refused(tmp_path / "adapted")


@pytest.mark.parametrize("kind", [GemmaEncoderForSequenceClassification, AutoModelForSequenceClassification])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attention": "causal"}, r"is adapted with attention 'bidirectional', not 'causal'; valid: 'bidirectional'"),
        ({"pooling": "last"}, "is adapted with pooling 'mean', not 'last'"),
        ({"local_layers": "open"}, "is adapted with local_layers 'keep', not 'open'"),
        ({"num_labels": 5}, "is adapted with num_labels 2, not 5"),
    ],
)
def test_another_adaptation_than_that_of_the_checkpoint_is_refused(tiny_decoder, tmp_path, kind, settings, says):
    GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=says):
        kind.from_pretrained(tmp_path, **settings)


@pytest.mark.parametrize("kind", [GemmaEncoderForSequenceClassification, AutoModelForSequenceClassification])
def test_how_a_checkpoint_runs_and_trains_may_be_asked_for_anew(tiny_decoder, tmp_path, kind):
    GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path, attention="bidirectional", ffn_dropout=0.4, unpadded=False)
    assert (model.config.ffn_dropout, model.config.unpadded) == (0.4, False)
    assert {ffn.output_dropout.p for ffn in ffn_modules(model.encoder.backbone)} == {0.4}


@pytest.mark.parametrize("kind", [GemmaEncoderForSequenceClassification, AutoModelForSequenceClassification])
def test_another_decoder_than_that_of_the_checkpoint_is_refused(tiny_decoder, tmp_path, kind):
    GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.decoder.sliding_window = 3
    for settings in ({"config": config}, {"decoder": {"sliding_window": 3}}):
        with pytest.raises(InputError, match=r"is adapted with decoder\.sliding_window 4, not 3; valid: 4, or adapt"):
            kind.from_pretrained(tmp_path, **settings)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_configuration_of_the_model_that_was_saved_is_that_of_the_checkpoint(tiny_decoder, tmp_path, family):
    model = GemmaEncoder.from_decoder(tiny_decoder(family))
    model.save_pretrained(tmp_path)
    GemmaEncoder.from_pretrained(tmp_path, config=model.config)
    GemmaEncoder.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"unpadded": "False"}, "unpadded 'False' is not valid; valid: True or False"),
        ({"ranking_loss": "foo"}, "unknown ranking_loss 'foo'; valid: listwise_softmax, pointwise_logistic"),
        ({"text_columns": "premise"}, "text_columns 'premise' is not valid; valid: a list of names"),
        ({"problem_type": "multi_label_classification"}, "problem_type 'multi_label_classification' does not fit"),
        ({"id2label": {1: "no", 2: "yes"}}, "id2label .* is not valid; .* for every label from 0 to 1"),
        ({"id2label": None}, "id2label None is not valid"),
    ],
)
def test_what_a_checkpoint_is_loaded_with_anew_is_checked(tiny_decoder, tmp_path, settings, says):
    GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=says):
        load_model(tmp_path, **settings)


def test_a_configuration_is_read_without_the_models(tiny_decoder, tmp_path):
    GemmaEncoder.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    code = f"from gemma_encoder.loading import adapted_config; print(adapted_config({str(tmp_path)!r}).pooling)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "mean\n"


def test_a_folder_without_tokenizer_gets_none_made_up(folder):
    with pytest.raises(InputError, match=r"has no tokenizer; valid: a folder with one of .*tokenizer\.json"):
        load_tokenizer(folder)


def test_a_tokenizer_without_pad_token_pads_with_its_end_of_text(folder):
    words = Tokenizer(WordLevel({"<end>": 0, "day": 1, "<unk>": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<end>", 0)
    assert tokenizer("day").input_ids == [1]


def test_the_digest_follows_the_weights(folder, tiny_decoder, tmp_path):
    tiny_decoder().save_pretrained(tmp_path / "same")
    assert model_digest(folder) == model_digest(tmp_path / "same")
    weights = load_file(folder / WEIGHTS)
    weights["norm.weight"][0] += 1
    (tmp_path / "other").mkdir()
    save_file(weights, tmp_path / "other" / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "other" / "config.json").write_text((folder / "config.json").read_text())
    assert model_digest(folder) != model_digest(tmp_path / "other")


def test_weights_that_are_written_anew_in_one_session_have_another_digest(folder):
    before, weights = model_digest(folder), load_file(folder / WEIGHTS)
    weights["norm.weight"][0] += 1
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert model_digest(folder) != before


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "chat_template.jinja", "spiece.model"])
def test_the_digest_follows_whatever_a_tokenizer_may_read(folder, name):
    (folder / name).write_text("a b\n")
    before = model_digest(folder)
    (folder / name).write_text("a b\nc d\n")
    assert model_digest(folder) != before


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "license.txt", "NOTICE", ".gitattributes"])
def test_the_digest_passes_over_what_is_for_people(folder, name):
    before = model_digest(folder)
    (folder / name).write_text("text")
    assert model_digest(folder) == before


@pytest.mark.parametrize("switch", ["is_causal", "use_bidirectional_attention"])
def test_the_switches_of_transformers_are_refused_on_load_with_the_valid_settings(tiny_decoder, tmp_path, switch):
    GemmaEncoder.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"'{switch}'; valid settings: attention_dropout, ffn_dropout"):
        GemmaEncoder.from_pretrained(tmp_path, **{switch: False})


@pytest.mark.parametrize("number", ["2", 2.0, None, 0])
def test_a_number_of_labels_that_is_none_is_refused(tiny_decoder, number):
    with pytest.raises(InputError, match=r"num_labels .* is not valid; valid: an integer >= 1"):
        GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), num_labels=number)


def test_another_attention_implementation_is_refused_on_load(tiny_decoder, tmp_path):
    GemmaEncoder.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="attn_implementation 'eager' does not know our masks; valid: 'gemma_encoder'"):
        GemmaEncoder.from_pretrained(tmp_path, attn_implementation="eager")


def test_a_quantised_decoder_is_refused_before_its_weights_are_converted(tiny_decoder):
    decoder = tiny_decoder()
    packed = torch.nn.Parameter(torch.randint(255, (8, 8), dtype=torch.uint8), requires_grad=False)
    projection = decoder.base_model.layers[0].self_attn.q_proj
    projection.weight, kept = packed, packed.clone()
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.q_proj\.weight of the decoder is torch\.uint8; valid"):
        GemmaEncoder.from_decoder(decoder)
    assert torch.equal(projection.weight, kept)
