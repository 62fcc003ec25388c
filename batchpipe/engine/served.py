"""Which models the engine can serve, as far as a configuration alone tells. Needs no torch."""

from __future__ import annotations

from typing import Any, NoReturn

from batchpipe.errors import ConfigError, UnsupportedModelError

SERVED_LAYERS = {"full_attention", "sliding_attention"}


def refuse(name: str, config: Any, reason: str) -> NoReturn:
    """Raise `UnsupportedModelError` that names the model, its kind and the reason."""
    raise UnsupportedModelError(
        f"model {name} ({type(config).__name__}) cannot be served: {reason}; choose another model"
    )


def refuse_by_config(name: str, config: Any) -> None:
    """Raise `UnsupportedModelError` where the model needs more than keys and values."""
    if getattr(config, "is_encoder_decoder", False):
        refuse(name, config, "it is an encoder-decoder, and batchpipe serves decoders only")
    unserved = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if unserved:
        layers = ", ".join(sorted(unserved))
        refuse(name, config, f"it has {layers} layers, and batchpipe keeps keys and values only")
    if getattr(config, "kv_lora_rank", None):
        refuse(name, config, "its latent attention has keys and values of different sizes")


def refuse_requantizing(name: str, config: Any, quantize: str) -> None:
    """Raise `ConfigError` where the checkpoint's weights are quantised already."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, dict) else type(found).__name__
    raise ConfigError(
        f"model {name} is quantised already ({method}), and --quantize {quantize} rounds whole "
        f"weights; leave the option out, or give the model that was quantised"
    )
