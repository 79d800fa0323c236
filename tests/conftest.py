"""What every test relies on: no network, nothing from the user's caches, fixed seeds, tiny random decoders."""

import os
import random
import runpy
import sys
import tempfile
from pathlib import Path

# the libraries read these when they are imported, so they are set before any test module is
CACHES = tempfile.TemporaryDirectory(prefix="gemma-encoder-tests-")
OFFLINE = str(Path(__file__).parent / "offline")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": CACHES.name,
    "HF_DATASETS_CACHE": f"{CACHES.name}/datasets",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": os.pathsep.join([OFFLINE, *filter(None, [os.environ.get("PYTHONPATH")])]),
}
sys.path.insert(0, OFFLINE)  # some tests hand sys.path to their child processes
runpy.run_path(f"{OFFLINE}/sitecustomize.py")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast  # noqa: E402
from transformers.utils import logging  # noqa: E402

torch.set_num_threads(1)
logging.disable_progress_bar()
hypothesis.settings.register_profile("kit", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("kit")

SIZE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "initializer_range": 0.3,  # large enough for soft-caps to bite and for every token to matter
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
LAYERS = ["sliding_attention", "full_attention"] * 2
LATE_WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
SHAPE = {
    "gemma": GROUPED,
    "gemma2": GROUPED | {"sliding_window": 4, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    "gemma3_text": GROUPED | {"sliding_window": 4, "query_pre_attn_scalar": 16, "layer_types": LAYERS},
    "gpt_neox": {},
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 4},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "modernbert-decoder": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "qwen2": GROUPED | LATE_WINDOW,
    "qwen3": GROUPED | LATE_WINDOW,
}


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_config():
    """Function `(family, **overrides)`: the configuration of a 4-layer decoder of width 32."""

    def make(family="gemma2", **overrides):
        return AutoConfig.for_model(family, **SIZE | SHAPE[family] | overrides)

    return make


@pytest.fixture(scope="session")
def tiny_decoder(tiny_config):
    """Function `(family, **overrides)`: a decoder with random weights, the same ones at every call."""

    def make(family="gemma2", **overrides):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return AutoModel.from_config(tiny_config(family, **overrides), attn_implementation="eager").eval()

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Bytes as tokens, 259 of them; a text gets one BOS and a pair, as with Gemma's own tokenizer, gets two."""
    specials = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}  # ids 0, 1, 2, as in SIZE
    tokens = [*specials.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    core.add_special_tokens(list(specials.values()))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **specials)


@pytest.fixture(scope="session")
def make_batch():
    """Function `(lengths, side, spare)`: ids and mask of a padded batch; the same lengths hold the same tokens."""

    def make(lengths, side="right", spare=0):
        width, source = max(lengths) + spare, torch.Generator().manual_seed(5)
        ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width)
        for row, length in enumerate(lengths):
            where = slice(0, length) if side == "right" else slice(width - length, width)
            ids[row, where] = torch.randint(3, SIZE["vocab_size"], (length,), generator=source)
            mask[row, where] = 1
        return ids, mask.long()

    return make


@pytest.fixture
def graphs():
    """Function: how many graphs torch.compile made in this test, which begins without any."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture
def compile_with(monkeypatch):
    """Function `(backend)`: what modules are compiled with from then on; "eager" generates no code."""
    compiles = torch.nn.Module.compile

    def choose(backend):
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiles(self, backend=backend, **how))

    return choose


@pytest.fixture
def causal_look(monkeypatch):
    """Function that makes every model read causally, whatever it was asked for: what a proof has to find."""
    import gemma_encoder.model
    from gemma_encoder.masks import causal
    from gemma_encoder.visibility import look

    def blind(real, masks, *rest, **more):
        return look(real, [causal] * len(masks), *rest, **more)

    return lambda: monkeypatch.setattr(gemma_encoder.model, "look", blind)
