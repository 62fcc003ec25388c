"""An error of a step is a shortage of memory, a lost device, or neither."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from batchpipe.engine.faults import first_line, is_device_lost, is_out_of_memory

LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported"),
    RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
NEITHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm`"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("could not create a primitive descriptor for the matmul primitive"),
    ValueError("out of memory"),
]
SHORT = [
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("could not create a memory object"),
    RuntimeError("could not create a primitive"),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_a_shortage_is_known_by_class_and_by_text(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_device_lost(error)


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_lost_device_is_known_by_class_and_by_text(error: Exception) -> None:
    assert is_device_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", NEITHER, ids=repr)
def test_a_refused_call_is_neither(error: Exception) -> None:
    assert not is_device_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("allocate", [np.empty, torch.empty, bytearray])
def test_a_real_allocation_beyond_all_memory_is_a_shortage(
    allocate: Callable[[int], object],
) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate(1 << 46)
    assert is_out_of_memory(caught.value)


def test_a_fault_is_told_in_one_line() -> None:
    assert first_line(RuntimeError("CUDA error: launch failure\nCompile with ...")) == (
        "CUDA error: launch failure"
    )
    assert first_line(MemoryError()) == "MemoryError"
