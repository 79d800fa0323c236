"""The shapes of the profiles' models, so that a plan needs no download, and what follows from a shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from gemma_encoder.errors import InputError
from gemma_encoder.families import check_family, head_counts
from gemma_encoder.loading import checkpoint_path, hub_name, load_with


@dataclass(frozen=True)
class Shape:
    """A model of gated feed-forward blocks whose input and output embeddings are one."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    family: str = "gemma2"  # in transformers' words
    licence: str = ""  # that must be accepted on the hub before a download

    @property
    def linear(self) -> int:
        """Weights of the blocks: each is multiplied once for every token."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.ffn)

    @property
    def parameters(self) -> int:
        """All weights but the norms, which are less than 0.2 %."""
        return self.linear + self.vocab * self.width

    def multiplications(self, length: float) -> float:
        """Of one forward pass for one token of a row: the linear layers, the scores and the weighted sums."""
        return self.linear + 2 * self.layers * self.heads * self.head_dim * length

    def training(self, lengths: Sequence[float], frozen: bool = False) -> float:
        """Operations of forward and backward over rows of these lengths; embeddings and norms are not counted.

        6 for each weight of the blocks and token, or 4 where weights are frozen, which then have no gradient of their
        own; 12 for each attention pair, head, value of a head and layer.
        """
        pairs = sum(length**2 for length in lengths)
        attention = 12 * self.layers * self.heads * self.head_dim * pairs
        return (4 if frozen else 6) * self.linear * sum(lengths) + attention

    def lora(self, rank: int) -> int:
        """Weights of LoRA's two matrices on every linear layer of the blocks: rank x (inputs + outputs)."""
        attention = 2 * self.head_dim * (self.heads + self.kv_heads)
        return rank * self.layers * (7 * self.width + attention + 3 * self.ffn)


GEMMA = "Gemma Terms of Use"
ETTIN = {  # size: shape of the decoder and of the native encoder of that size
    "17m": (7, 256, 4, 4, 64, 384, 50368),
    "32m": (10, 384, 6, 6, 64, 576, 50368),
    "68m": (19, 512, 8, 8, 64, 768, 50368),
    "150m": (22, 768, 12, 12, 64, 1152, 50368),
}
SHAPES = {  # sources: the public config files; Ettin: the table of its repository's README
    **{f"jhu-clsp/ettin-decoder-{size}": Shape(*shape, "modernbert-decoder") for size, shape in ETTIN.items()},
    **{f"jhu-clsp/ettin-encoder-{size}": Shape(*shape, "modernbert") for size, shape in ETTIN.items()},
    "google/gemma-3-270m": Shape(18, 640, 4, 1, 256, 2048, 262144, "gemma3_text", GEMMA),
    "google/gemma-2-2b": Shape(26, 2304, 8, 4, 256, 9216, 256000, "gemma2", GEMMA),
    "google/gemma-2-9b": Shape(42, 3584, 16, 8, 256, 14336, 256000, "gemma2", GEMMA),
}


def _listed(model: str) -> Shape | None:
    """The shape that the table has of a model on the hub, at any revision; None for other models and for folders."""
    where = checkpoint_path(model)
    return None if Path(where).is_dir() else SHAPES.get(hub_name(where)[0])


def config_of(model: str) -> PreTrainedConfig:
    """The configuration of a checkpoint folder, or one of the table; InputError for anything else."""
    folder = Path(checkpoint_path(model))
    if (folder / "config.json").is_file():
        return load_with(AutoConfig.from_pretrained, folder)
    shape = _listed(model)
    if shape is None:
        raise InputError(f"no shape is known of model {model!r}; valid: a checkpoint folder, {', '.join(SHAPES)}")
    return AutoConfig.for_model(shape.family, **sizes_of(shape))


def sizes_of(shape: Shape) -> dict[str, int]:
    """A shape in the names of transformers' configurations."""
    return {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
    }


def shape_of(model: str) -> Shape:
    """From the table, or from the config of a checkpoint folder; InputError for anything else."""
    if listed := _listed(model):
        return listed
    return shape_in(config_of(model))


def shape_in(config: PreTrainedConfig) -> Shape:
    """The shape that a configuration of a supported family has."""
    check_family(config)
    heads, kv_heads = head_counts(config)
    return Shape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        ffn=config.intermediate_size,
        vocab=config.vocab_size,
        family=config.model_type,
    )
