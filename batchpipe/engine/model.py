"""Loads a decoder through transformers and runs packed batches through its own code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.logging import disable_progress_bar

from batchpipe.engine.attention import PagedAttention
from batchpipe.engine.faults import is_device_lost, is_out_of_memory
from batchpipe.engine.fused import fuse
from batchpipe.engine.head import Computed, computing_once
from batchpipe.engine.host_memory import keep_freed_memory
from batchpipe.engine.last_layer import LastLayer
from batchpipe.engine.linear import pack_linears
from batchpipe.engine.quantized import quantize_linears
from batchpipe.engine.ranks.orders import Logits, NextSlice, Order, Slices
from batchpipe.engine.rotary import rotate_in_one_pass
from batchpipe.engine.served import refuse
from batchpipe.engine.token_batch import TokenBatch
from batchpipe.errors import ConfigError
from batchpipe.planner.machine.model_shape import ModelShape


class Others(Protocol):
    """Ranks that have the other slices of the model."""

    def tell(self, order: Order) -> None:
        """They will carry it out."""

    def together(self, order: Order) -> AbstractContextManager[None]:
        """They carry it out while this process does the same within."""

    def unbind(self) -> None:
        """They have no KV for it any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """A loaded model whose attention reads our paged KV."""

    model: Any  # a transformers PreTrainedModel
    attention: PagedAttention
    last_layer: LastLayer
    device: torch.device
    dtype: torch.dtype
    others: Others | None = None  # None: the model is whole

    def logits(self, batch: TokenBatch) -> Tensor:  # float32  # [read, vocab]
        """The scores after every token that draws or scores; all the batch's KV is stored."""
        with self._together(Logits(batch)):
            return self._logits(batch, batch.sampled)

    def some_logits(self, batch: TokenBatch, most: int) -> Iterator[Tensor]:  # [rows, vocab]
        """The same, some rows after the others: at most so many scores at once, or one row."""
        rows = max(1, most // self.model.config.get_text_config().vocab_size)
        body = Computed(self.model.base_model)
        if self.others is not None:
            self.others.tell(Slices(batch, most))
        for start in range(0, len(batch.sampled), rows):
            with self._together(NextSlice()), computing_once(self.model, body):
                logits = self._logits(batch, batch.sampled[start : start + rows])
            yield logits

    def close(self) -> None:
        """Other ranks have no KV any more; here it goes with its last reference."""
        if self.others is not None:
            self.others.unbind()

    def _together(self, order: Order) -> AbstractContextManager[None]:
        return nullcontext() if self.others is None else self.others.together(order)

    def _logits(self, batch: TokenBatch, rows: Tensor) -> Tensor:
        self.attention.batch = batch
        some = None if batch.last_layer is None else batch.last_layer.tokens
        with torch.inference_mode(), self.last_layer.computing(some, len(batch.input_ids)):
            output = self.model(
                input_ids=batch.input_ids.unsqueeze(0),
                position_ids=batch.layout.positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=rows,
                return_dict=True,
            )
        logits: Tensor = output.logits[0].float()
        return logits


def refuse_by_class(name: str, config: Any) -> None:
    """Raise `UnsupportedModelError` where transformers' code for the model cannot be driven."""
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if architecture is None:
        refuse(name, config, "transformers has no causal language model for this configuration")
    if getattr(architecture, "_is_stateful", False):
        refuse(name, config, "its layers keep a recurrent state")
    if not getattr(architecture, "_supports_attention_backend", False):
        refuse(name, config, "its code does not use transformers' attention interface")
    parameters = inspect.signature(architecture.forward).parameters
    missing = {"position_ids", "logits_to_keep"} - set(parameters)
    if missing:
        refuse(name, config, f"its forward takes no {' and no '.join(sorted(missing))}")


def choose_device(wanted: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` means here."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            "device cuda was asked for, but torch sees no CUDA device; use --device cpu"
        )
    return torch.device(wanted)


def choose_dtype(wanted: str, config: Any, device: torch.device) -> str:
    """The name of the dtype to compute in.

    ``auto`` keeps a float32 checkpoint in float32. Half-precision checkpoints run in bfloat16 where
    the device computes it natively, else in float32 (CPU) or float16 (older GPUs).
    """
    if wanted != "auto":
        return wanted
    stored = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    if stored not in ("float16", "bfloat16"):
        return "float32"
    if device.type == "cuda":
        return stored if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if _cpu_computes_bfloat16() else "float32"


def _cpu_computes_bfloat16() -> bool:
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def load_model(
    name: str,
    config: Any,
    *,
    dtype: str,
    device: torch.device,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize: str | None = None,
    ranks: int = 1,
) -> Any:
    """The model with its weights on the device, in evaluation mode.

    With several ranks it is this one's slice of it, and each of them must do the same.
    """
    disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            config=config if ranks == 1 else deepcopy(config),  # transformers writes into it
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            revision=revision,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **({} if ranks == 1 else {"distributed_config": _divided(ranks)}),
        )
    except (OSError, SafetensorError, RuntimeError, LookupError, ValueError) as error:
        if is_out_of_memory(error) or is_device_lost(error):
            raise
        raise ConfigError(f"model {name}: its weights cannot be loaded: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise ConfigError(
            f"model {name}: its checkpoint lacks {len(missing)} weights, among them {missing[0]}; "
            f"the files are incomplete or belong to another model"
        )
    model.eval().requires_grad_(False)
    if ranks > 1:  # it is where it belongs, and our own layers would leave out what joins the ranks
        return model
    if quantize is not None:
        quantize_linears(model, quantize, device)
    model.to(device)
    if device.type == "cpu":
        pack_linears(model)
        fuse(model, model.dtype)
        rotate_in_one_pass(model, model.dtype)
        keep_freed_memory()
    return model


def _divided(ranks: int) -> Any:
    """Transformers' word for a model over so many processes, by the model's own plan."""
    from transformers.distributed import DistributedConfig  # older ones have it nowhere

    return DistributedConfig(tp_size=ranks)


def bind(model: Any, shape: ModelShape, kv_blocks: int) -> Decoder:
    """The model with its attention bound to so many blocks of fresh paged KV."""
    attention = PagedAttention(shape, kv_blocks, model.dtype, model.device)
    model.set_attn_implementation(attention.name)
    return Decoder(model, attention, LastLayer.of(model, shape.layers), model.device, model.dtype)
