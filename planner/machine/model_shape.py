"""The sizes of a model that planning needs, read from its configuration alone.

Knows how decoders are built from attention, MLP and experts, and under which names configurations
keep the sizes. Norms, biases and learned positions are left out: together they are below 2 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNBOUNDED = 2**31 - 1  # the context of a model that names no limit
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
# Of a quantised weight. int4 with what 128 weights share: a scale and, on a GPU, a zero point.
QUANTIZED_BYTES = {"int8": 1.0, "float8": 1.0, "int4": 0.5 + 4 / 128}

# An MLP has three matrices, gate, up and down, save in these families, which have no gate.
PLAIN_MLP = frozenset(
    {
        "apertus",
        "arcee",
        "biogpt",
        "bloom",
        "codegen",
        "falcon",
        "fuyu",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gpt_neox_japanese",
        "gptj",
        "jais2",
        "mpt",
        "nanochat",
        "nemotron",
        "opt",
        "persimmon",
        "phi",
        "starcoder2",
        "xglm",
    }
)

# One size, many names: the first that the configuration has and that is not None counts.
MLP_WIDTH = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner")
EXPERT_WIDTH = ("moe_intermediate_size", "intermediate_size")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "moe_k", "moe_topk")
SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
FIRST_DENSE_LAYERS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts of a decoder: enough to size its KV cache, its weights and its work per token."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int  # as of `context_of`
    linear_parameters: int  # of all blocks, those that every token meets; no embedding, no head
    expert_parameters: int  # of all routed experts of all layers; 0 in a dense model
    experts: int  # routed ones of a layer; 0 in a dense model
    experts_per_token: int
    head_parameters: int  # vocab * hidden
    tied_head: bool  # the head is the embedding
    windows: tuple[int, ...]  # keys that a query sees, itself included; 0 is all  # [layers]
    quantize: str | None = None  # how linear weights are kept, a key of `QUANTIZED_BYTES`

    @classmethod
    def from_config(cls, config: object) -> ModelShape:
        """Read the attributes that Hugging Face configurations have, with their usual defaults.

        Raises ``AttributeError`` where a needed size is missing.
        """
        heads: int = config.num_attention_heads  # type: ignore[attr-defined]
        hidden: int = config.hidden_size  # type: ignore[attr-defined]
        layers: int = config.num_hidden_layers  # type: ignore[attr-defined]
        vocab: int = config.vocab_size  # type: ignore[attr-defined]
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        head_dim = getattr(config, "head_dim", None) or hidden // heads
        experts = _first_of(config, EXPERTS) if getattr(config, "is_moe", True) else 0
        sparse = _sparse_layers(config, layers) if experts else 0
        attention = hidden * head_dim * (2 * heads + 2 * kv_heads)  # q and o, k and v
        linear = layers * attention + (layers - sparse) * _dense_mlp(config, hidden)
        linear += sparse * (hidden * experts + _shared_mlp(config, hidden))  # router, shared
        return cls(
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab=vocab,
            context=context_of(config),
            linear_parameters=linear,
            expert_parameters=sparse * experts * 3 * hidden * _first_of(config, EXPERT_WIDTH),
            experts=experts if sparse else 0,
            experts_per_token=_first_of(config, EXPERTS_PER_TOKEN) if sparse else 0,
            head_parameters=vocab * hidden,
            tied_head=bool(getattr(config, "tie_word_embeddings", False)),
            windows=_windows(config, layers),
        )

    @property
    def active_parameters(self) -> float:
        """Parameters that one token is multiplied with, the head included."""
        share = self.experts_per_token / self.experts if self.experts else 0.0
        return self.linear_parameters + self.expert_parameters * share + self.head_parameters

    @property
    def parameters(self) -> int:
        """Parameters that are stored: a tied head and its embedding count once."""
        copies = 1 if self.tied_head else 2
        return self.linear_parameters + self.expert_parameters + copies * self.head_parameters

    def weight_bytes(self, dtype: str) -> int:
        """Bytes that all parameters take; embedding, head and experts are never quantised."""
        others = self.parameters - self.linear_parameters
        linear = self.linear_parameters * self.linear_weight_bytes(dtype)
        return int(linear) + others * DTYPE_BYTES[dtype]

    def linear_weight_bytes(self, dtype: str) -> float:
        """Bytes of one weight of the linear layers."""
        return DTYPE_BYTES[dtype] if self.quantize is None else QUANTIZED_BYTES[self.quantize]

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes that one token's keys and values take in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * DTYPE_BYTES[dtype]


def context_of(config: object) -> int:
    """Positions that the model was made for."""
    return getattr(config, "max_position_embeddings", None) or UNBOUNDED


def _first_of(config: object, names: Sequence[str]) -> int:
    """The size under the first of these names that has one, else 0; of layers' sizes the mean."""
    sizes = (getattr(config, name, None) for name in names)
    size = next((size for size in sizes if size is not None), 0)
    return int(size) if isinstance(size, int) else sum(size) // len(size)


def _dense_mlp(config: object, hidden: int) -> int:
    """Parameters of the MLP of a layer without routed experts."""
    width = _first_of(config, MLP_WIDTH)
    if not width:  # the families that name none have GPT-2's
        return 2 * hidden * 4 * hidden
    plain = getattr(config, "model_type", "") in PLAIN_MLP
    return (2 if plain else 3) * hidden * width


def _shared_mlp(config: object, hidden: int) -> int:
    """Parameters of the experts of a sparse layer that every token goes through."""
    width = _first_of(config, ("shared_expert_intermediate_size",))
    if width:
        return 3 * hidden * width + hidden  # with a gate of one row
    return _first_of(config, SHARED_EXPERTS) * 3 * hidden * _first_of(config, EXPERT_WIDTH)


def _sparse_layers(config: object, layers: int) -> int:
    """How many layers have routed experts."""
    kinds = getattr(config, "mlp_layer_types", None)
    if kinds:
        return sum(kind == "sparse" for kind in kinds)
    dense = set(getattr(config, "mlp_only_layers", None) or ())
    dense.update(range(_first_of(config, FIRST_DENSE_LAYERS)))
    every = _first_of(config, ("decoder_sparse_step",)) or 1
    return sum(layer not in dense and (layer + 1) % every == 0 for layer in range(layers))


def _windows(config: object, layers: int) -> tuple[int, ...]:  # [layers]
    """The window of every layer: of those that slide, or, where layers have no kinds, of all.

    Qwen's ``max_window_layers`` is in ``layer_types`` already, which its configurations fill.
    """
    window = _first_of(config, ("sliding_window",))
    if not getattr(config, "use_sliding_window", True):
        window = 0
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
