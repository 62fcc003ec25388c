"""Sizes of two models, for which nothing has weights."""

from __future__ import annotations

from batchpipe.planner.machine.model_shape import ModelShape


def shape(layers: int, hidden: int) -> ModelShape:
    """A dense decoder of these sizes."""
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=hidden // 128,
        kv_heads=8,
        head_dim=128,
        vocab=100_000,
        context=32_768,
        linear_parameters=layers * 12 * hidden * hidden,
        expert_parameters=0,
        experts=0,
        experts_per_token=0,
        head_parameters=100_000 * hidden,
        tied_head=True,
        windows=(0,) * layers,
    )


SHAPES = {"small": shape(16, 2048), "large": shape(48, 6144)}
