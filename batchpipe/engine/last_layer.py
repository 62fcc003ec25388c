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
    def computing(self, tokens: Tensor | None) -> Iterator[None]:
        """Within, the parts compute these tokens of the packed row alone; None: all.

        In the places of the others they give zeros.
        """
        if tokens is None:
            yield
            return
        hooks = _Hooks(tokens)
        handles = [part.register_forward_pre_hook(hooks.take) for part in self.parts]
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
    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens
        self._all_tokens = 0

    def take(self, _part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        self._all_tokens = given[0].shape[1]  # [1, tokens, width]
        return (given[0].index_select(1, self._tokens), *given[1:])

    def put_back(self, _part: nn.Module, _given: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # an MLP of experts may tell more than its result
            return (self._spread(output[0]), *output[1:])
        return self._spread(output)

    def _spread(self, computed: Tensor) -> Tensor:
        return spread(computed, self._tokens, self._all_tokens, axis=1)
