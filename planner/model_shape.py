"""The sizes of a model that planning needs, read from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

UNBOUNDED = 2**31 - 1  # the context of a model that names no limit
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts of a decoder: enough to size its KV cache and its context."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int  # positions the model was made for

    @classmethod
    def from_config(cls, config: object) -> ModelShape:
        """Read the attributes that Hugging Face configurations have, with their usual defaults.

        Raises ``AttributeError`` where a needed size is missing.
        """
        heads: int = config.num_attention_heads  # type: ignore[attr-defined]
        hidden: int = config.hidden_size  # type: ignore[attr-defined]
        return cls(
            layers=config.num_hidden_layers,  # type: ignore[attr-defined]
            hidden=hidden,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
            vocab=config.vocab_size,  # type: ignore[attr-defined]
            context=getattr(config, "max_position_embeddings", None) or UNBOUNDED,
        )

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes that one token's keys and values take in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * DTYPE_BYTES[dtype]
