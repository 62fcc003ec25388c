"""Compiles the tuned kernels for one architecture, with no GPU; one line of JSON for each."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from batchpipe.kernels import decode, prefill, store
from batchpipe.kernels.tuned import tuning_for

# Everything else is an integer, or a constant where a value is given for it.
POINTERS = {
    **dict.fromkeys(
        ["query", "key", "value", "key_cache", "value_cache", "output", "sinks"], "*bf16"
    ),
    **dict.fromkeys(["positions", "write_slots"], "*i64"),
    **dict.fromkeys(["pages", "reads", "rows", "tiles", "tile_reads"], "*i32"),
    **dict.fromkeys(["tasks", "part_first"], "*i32"),
    **dict.fromkeys(["parts", "part_lse"], "*fp32"),
}
NUMBERS = {"scale": "fp32", "softcap": "fp32"}


def shared_bytes(kernel: Any, architecture: int, warps: int, stages: int, **constants: Any) -> int:
    """Shared memory of one program, once the kernel is machine code."""
    names = kernel.arg_names
    types = POINTERS | NUMBERS | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in names if n in POINTERS},
    )
    made = compile_kernel(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    assert made.asm["cubin"]
    return int(made.metadata.shared)


def main(architecture: int, head_dim: int) -> None:
    """Prints each kernel's name and its bytes of shared memory."""
    tuning = tuning_for(divmod(architecture, 10), head_dim, torch.bfloat16)
    size = 1 << (head_dim - 1).bit_length()
    heads = {"HEAD_DIM": head_dim, "VALUE_DIM": head_dim, "BLOCK_D": size}
    variant = {"WINDOWED": True, "SOFTCAPPED": True, "PRECISION": "tf32"}
    common = {"GROUP": 4, **heads, "BLOCK_DV": size, "PAGE_TOKENS": 16, **variant}
    tall, low = tuning.tall, tuning.low
    tiles = {"LOW_M": low.rows, "LOW_N": low.keys, "TALL_M": tall.rows, "TALL_N": tall.keys}
    found = {
        name: shared_bytes(
            prefill._tiled_kernel,
            architecture,
            tile.warps,
            tile.stages,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.keys,
            SINKS=True,
            **common,
        )
        for name, tile in (("prefill", tuning.prefill), ("single", tuning.single))
    }
    found["split"] = shared_bytes(
        decode._split_kernel, architecture, tall.warps, tall.stages, **tiles, **common
    )
    found["merge"] = shared_bytes(
        decode._merge_kernel, architecture, 1, 1, VALUE_DIM=head_dim, BLOCK_DV=size, SINKS=True
    )
    found["store"] = shared_bytes(store._store_kernel, architecture, 4, 1, **heads, BLOCK_T=16)
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
