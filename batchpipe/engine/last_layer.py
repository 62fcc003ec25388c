"""The last layer computes what is read: only tokens behind which one is drawn reach the scores.

Of all other tokens it gives keys and values and nothing else. Its query product, its attention, the
product behind it and its MLP leave them out: most of a layer, for most of a prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# What the parts are called in transformers' model files; one called otherwise computes all tokens.
ATTENTION_PARTS = frozenset({"q_proj", "o_proj", "out_proj", "dense", "c_proj"})
LAYER_PARTS = frozenset({"mlp", "feed_forward", "block_sparse_moe"})


@dataclass(frozen=True, slots=True)
class LastLayer:
    """The parts of a model's last layer that take every token by itself."""

    parts: tuple[nn.Module, ...]

    @classmethod
    def of(cls, model: nn.Module, layers: int) -> LastLayer:
        """The parts of layer ``layers - 1``."""
        for layer in model.modules():
            for attention in layer.children():
                inner = _named(attention, ATTENTION_PARTS)
                if inner and getattr(attention, "layer_idx", None) == layers - 1:
                    return cls((*inner, *_named(layer, LAYER_PARTS)))
        return cls(())

    @contextmanager
    def computing(self, tokens: Tensor | None, all_tokens: int) -> Iterator[None]:
        """Within, the parts compute these of all tokens of the packed row alone; None: all.

        In the places of the others they give zeros.
        """
        if tokens is None:
            yield
            return
        hooks = _Hooks(tokens, all_tokens)
        handles = [
            part.register_forward_pre_hook(hooks.take, with_kwargs=True) for part in self.parts
        ]
        handles += [part.register_forward_hook(hooks.put_back) for part in self.parts]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _named(module: nn.Module, names: frozenset[str]) -> list[nn.Module]:
    return [child for name, child in module.named_children() if name in names]


def spread(computed: Tensor, tokens: Tensor, all_tokens: int, axis: int) -> Tensor:
    """What was computed in its tokens' places along the axis, zeros in all others."""
    shape = (*computed.shape[:axis], all_tokens, *computed.shape[axis + 1 :])
    return computed.new_zeros(shape).index_copy_(axis, tokens, computed)


class _Hooks:
    """Before and behind a part: whatever has all tokens has these alone, and the other way round.

    A part may take and give several tensors, ``[1, tokens, ...]``, and an MLP of experts its tokens
    without the row before them.
    """

    def __init__(self, tokens: Tensor, all_tokens: int) -> None:
        self._tokens, self._all_tokens = tokens, all_tokens

    def take(
        self, _part: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(self._taken, given)), {n: self._taken(each) for n, each in named.items()}

    def put_back(self, _part: nn.Module, _given: tuple[Any, ...], output: Any) -> Any:
        return (
            tuple(map(self._spread, output)) if isinstance(output, tuple) else self._spread(output)
        )

    def _taken(self, value: Any) -> Any:
        axis = _token_axis(value, self._all_tokens)
        return value if axis is None else value.index_select(axis, self._tokens)

    def _spread(self, value: Any) -> Any:
        axis = _token_axis(value, len(self._tokens))
        return value if axis is None else spread(value, self._tokens, self._all_tokens, axis)


def _token_axis(value: Any, tokens: int) -> int | None:
    """The axis on which the value has so many tokens; None where it is no such tensor."""
    if not isinstance(value, Tensor):
        return None
    if value.ndim >= 3 and value.shape[:2] == (1, tokens):
        return 1
    return 0 if value.ndim == 2 and value.shape[0] == tokens else None
