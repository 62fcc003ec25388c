"""One rank's slice of a model: loaded by transformers' own plan, and checked with all others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from batchpipe.engine.model import load_model
from batchpipe.engine.ranks.orders import Load
from batchpipe.engine.self_check import check_attention
from batchpipe.planner.machine.model_shape import ModelShape


def slice_shape(shape: ModelShape, ranks: int) -> ModelShape:
    """What the attention of one rank sees: its share of the heads, and all else as it is."""
    return replace(shape, heads=shape.heads // ranks, kv_heads=shape.kv_heads // ranks)


def rank_device(kind: str, rank: int) -> torch.device:
    """The device of a rank: the processor for all of them, or a GPU each."""
    return torch.device(kind) if kind == "cpu" else torch.device(kind, rank)


def load_slice(load: Load, config: Any, device: torch.device, ranks: int) -> Any:
    """The slice on its device; the whole model scores as in its own attention.

    All ranks must do this together.

    Raises:
        ConfigError: the model cannot be loaded, or not be divided so
    """
    model = load_model(
        load.name,
        config,
        dtype=load.dtype,
        device=device,
        revision=load.revision,
        trust_remote_code=load.trust_remote_code,
        ranks=ranks,
    )
    check_attention(model, load.shape, load.name)
    return model
