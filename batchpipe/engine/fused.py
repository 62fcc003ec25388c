"""Norms and gated MLPs of a CPU model in one pass each, without a line of model code.

A module is taken by its parts and then asked: only one that gives the same numbers on drawn rows is
replaced. So Gemma's norms, whose weights count from one, and gates of another function stay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from batchpipe.kernels import native_rows

ROWS_TRIED = 5
# Sums in another order, and once in a while the next bfloat16.
TOLERATED = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
MLP_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class FusedRMSNorm(nn.Module):
    """Root mean square normalisation (Zhang, Sennrich 2019), as Llama has it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.plain = norm  # for rows of another dtype, which a model may keep for precision
        self.weight: nn.Parameter = norm.weight  # type: ignore[assignment]
        self.epsilon = float(_epsilon(norm) or 0.0)

    def forward(self, rows: Tensor) -> Tensor:  # [..., width]
        """``weight * rows / sqrt(mean(rows ** 2) + epsilon)``."""
        if rows.dtype != self.weight.dtype:
            normed: Tensor = self.plain(rows)
            return normed
        return native_rows.rms_norm(rows, self.weight, self.epsilon)


class FusedGatedMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))`` (Shazeer 2020), its gates opened in place."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, rows: Tensor) -> Tensor:  # [..., width]
        """The rows through the layer."""
        gates: Tensor = self.gate_proj(rows)  # type: ignore[operator]
        others: Tensor = self.up_proj(rows)  # type: ignore[operator]
        opened = native_rows.open_gates_(gates.contiguous(), others)
        through: Tensor = self.down_proj(opened)  # type: ignore[operator]
        return through


def fuse(model: nn.Module, dtype: torch.dtype) -> int:
    """Every norm and gated MLP that the compiled kernel computes is replaced; returns how many."""
    replaced = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            fused = _fused(child, dtype)
            if fused is not None:
                setattr(module, name, fused)
                replaced += 1
    return replaced


def _fused(module: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """The same module in one pass, None where there is none."""
    if type(module).__name__.endswith("RMSNorm") and _epsilon(module) is not None:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 1 and weight.dtype == dtype:
            return _if_equal(module, FusedRMSNorm, dtype, len(weight), len(weight))
    if {name for name, _ in module.named_children()} == MLP_PARTS:
        width, inner = (getattr(module.gate_proj, f"{end}_features", None) for end in ("in", "out"))
        if isinstance(width, int) and isinstance(inner, int):
            return _if_equal(module, FusedGatedMLP, dtype, width, inner)
    return None


def _if_equal(
    module: nn.Module,
    make: Callable[[nn.Module], nn.Module],
    dtype: torch.dtype,
    width: int,  # of what goes in
    inner: int,  # of what the kernel sees
) -> nn.Module | None:
    """The fused module where it gives what the other gives."""
    if not native_rows.serves(dtype, inner):
        return None
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(1, ROWS_TRIED, width, generator=draw).to(dtype)
    fused = make(module)
    with torch.inference_mode():
        expected, found = module(rows).float(), fused(rows).float()
    spread = float(expected.abs().max().clamp_min(1e-6))
    same = float((found - expected).abs().max()) <= TOLERATED[dtype] * spread
    return fused if same else None


def _epsilon(norm: nn.Module) -> float | None:
    """What keeps the root from zero, by the names that models give it."""
    return next(
        (
            float(value)
            for name in ("variance_epsilon", "eps")
            if isinstance(value := getattr(norm, name, None), (int, float))
        ),
        None,
    )
