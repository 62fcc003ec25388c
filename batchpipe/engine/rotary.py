"""Rotary position embedding of a CPU model in one pass, without a line of model code.

transformers' attentions find the function that rotates by its name in their module. An attention
gets a copy of its ``forward`` that finds another function there; nobody else's is touched. As with
`fused`, only where it gives the same numbers on drawn heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from batchpipe.kernels import native_rows

NAME = "apply_rotary_pos_emb"
GIVEN = ("q", "k", "cos", "sin")
TOKENS_TRIED = 5
TOLERATED = {torch.float32: 1e-6, torch.bfloat16: 1e-2}

Rotation = Callable[..., tuple[Tensor, Tensor]]


def rotate_in_one_pass(model: nn.Module, dtype: torch.dtype) -> int:
    """Every attention that rotates as Llama's does uses the compiled kernel; returns how many."""
    replaced = 0
    for module in model.modules():
        forward, head_dim = type(module).forward, getattr(module, "head_dim", None)
        if not isinstance(forward, FunctionType) or NAME not in forward.__code__.co_names:
            continue
        plain = forward.__globals__.get(NAME)
        if isinstance(head_dim, int) and plain is not None and _is_same(plain, dtype, head_dim):
            module.forward = MethodType(_seeing(forward, _fused(plain)), module)
            replaced += 1
    return replaced


def _fused(plain: Rotation) -> Rotation:
    """The same function by the compiled kernel, where that takes what it is given."""

    def rotate(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **named: Any
    ) -> tuple[Tensor, Tensor]:
        if rest or named or not (_is_served(q, cos) and _is_served(k, cos)):
            return plain(q, k, cos, sin, *rest, **named)
        return _rotated(q, cos, sin), _rotated(k, cos, sin)

    return rotate


def _is_served(heads: Tensor, cos: Tensor) -> bool:  # [1, heads, tokens, head_dim]
    """True for one row of packed tokens, all of whose numbers are turned."""
    return (
        heads.shape[0] == 1
        and heads.stride(3) == 1
        and cos.dtype == heads.dtype
        and cos.shape == (1, *heads.shape[2:])
        and native_rows.turns(heads.dtype, heads.shape[3])
    )


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # [1, heads, tokens, head_dim]
    turned = native_rows.rotate(heads[0].transpose(0, 1), cos[0], sin[0])
    return turned.transpose(0, 1).unsqueeze(0)


def _seeing(forward: FunctionType, rotate: Rotation) -> FunctionType:
    """A copy of the function, to which the name means this."""
    seen = {**forward.__globals__, NAME: rotate}
    copy = FunctionType(
        forward.__code__, seen, forward.__name__, forward.__defaults__, forward.__closure__
    )
    copy.__kwdefaults__ = forward.__kwdefaults__
    copy.__dict__.update(forward.__dict__)
    return copy


def _is_same(plain: Rotation, dtype: torch.dtype, head_dim: int) -> bool:
    """True where the function is given what ours is, and returns the same."""
    if not native_rows.turns(dtype, head_dim):
        return False
    if tuple(inspect.signature(plain).parameters)[: len(GIVEN)] != GIVEN:
        return False
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, n, TOKENS_TRIED, head_dim, generator=draw).to(dtype) for n in (2, 1))
    cos, sin = torch.randn(2, 1, TOKENS_TRIED, head_dim, generator=draw).to(dtype)
    expected, found = plain(q, k, cos, sin), _fused(plain)(q, k, cos, sin)
    return all(
        mine.shape == theirs.shape and float((mine - theirs).abs().max()) <= TOLERATED[dtype]
        for mine, theirs in zip(found, expected, strict=True)
    )
