"""The seam to transformers: a model's layers call our attention and never see a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor
from transformers import AttentionInterface

from batchpipe.engine.last_layer import spread
from batchpipe.engine.token_batch import TokenBatch
from batchpipe.errors import UnsupportedModelError
from batchpipe.kernels.dispatch import Dispatch
from batchpipe.kernels.reference import Variant
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.model_shape import ModelShape

# Tensors that some models hand to their attention and that change nothing here.
HARMLESS = frozenset({"position_ids", "position_embeddings", "cache_position"})


class PagedAttention:
    """Paged keys and values of every layer, and the attention function that reads them.

    Registered under ``name`` in transformers' attention interface, which holds it weakly: with the
    last reference its memory is free. `batch` is set before each forward pass; its packed row is
    ``[1, heads, tokens, head_dim]``.
    """

    def __init__(
        self, shape: ModelShape, blocks: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.name = f"batchpipe_{id(self):x}"
        self.batch: TokenBatch | None = None
        self._dispatch = Dispatch()
        cache_shape = (shape.layers, blocks * BLOCK_TOKENS, shape.kv_heads, shape.head_dim)
        self.keys = torch.empty(cache_shape, dtype=dtype, device=device)
        self.values = torch.empty(cache_shape, dtype=dtype, device=device)
        AttentionInterface.register(self.name, _weakly(self))

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,  # [1, heads, tokens, head_dim]
        key: Tensor,  # [1, kv_heads, tokens, head_dim]
        value: Tensor,  # [1, kv_heads, tokens, head_dim]
        attention_mask: Tensor | None = None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **rest: Any,
    ) -> tuple[Tensor, None]:  # [1, tokens, heads, head_dim]
        """One layer's attention over the current step."""
        unknown = {name for name, given in rest.items() if isinstance(given, Tensor)} - HARMLESS
        if attention_mask is not None or unknown:
            raise UnsupportedModelError(
                f"{type(module).__name__} asks its attention for "
                f"{', '.join(sorted(unknown)) or 'a mask of its own'}, which is not supported"
            )
        assert self.batch is not None, "no step is laid out"
        layer: int = module.layer_idx  # type: ignore[assignment]
        variant = Variant(
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            window=sliding_window,
            softcap=softcap,
        )
        queries, layout = query[0].transpose(0, 1), self.batch.layout
        some = self.batch.last_layer if layer == len(self.keys) - 1 else None
        if some is not None:
            queries, layout = queries.index_select(0, some.tokens), some.layout
        output = self._dispatch.attend(
            queries,
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            self.keys[layer],
            self.values[layer],
            layout,
            variant,
            s_aux,
        )
        if some is not None:
            output = spread(output, some.tokens, key.shape[2], axis=0)
        return output.unsqueeze(0), None


def _weakly(attention: PagedAttention) -> Callable[..., tuple[Tensor, None]]:
    """The function that transformers keeps for the life of the process."""
    reference = WeakMethod(attention.attend)

    def forward(*given: Any, **named: Any) -> tuple[Tensor, None]:
        method = reference()
        assert method is not None, "the KV memory of this model is released"
        return method(*given, **named)

    return forward
