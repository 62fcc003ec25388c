"""What an error from a step means: memory ran short, or the device is lost.

Knows torch's errors and, where torch has no class for one, the texts of its libraries.
"""

from __future__ import annotations

import re

import torch

# "out of memory" is said by CUDA and HIP outside torch's own allocator, and by Triton. oneDNN says
# only that it "could not create" what it had no room for; a primitive *descriptor* that it could
# not create is an operation that it does not know.
_SHORT_OF_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|alloc_cpu|std::bad_alloc|STATUS_ALLOC_FAILED"
    r"|could not create a memory|could not (create|execute) a primitive(?! descriptor)",
    re.IGNORECASE,
)

_LOST = re.compile(
    r"CUDA (driver )?error|HIP error|Triton Error \[(CUDA|HIP)\]|device-side assert|NCCL|cudaError"
    r"|CU(BLAS|DNN|SPARSE|SOLVER)_STATUS_(NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR)",
    re.IGNORECASE,
)

# A call that the driver refuses leaves the device as it was, and is refused again next time.
_REFUSED = re.compile(
    r"STATUS_(INVALID_VALUE|NOT_SUPPORTED|ARCH_MISMATCH)|invalid (argument|configuration argument)"
    r"|no kernel image|invalid device function",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran short, the host's or the device's: with less to hold, it may do."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_SHORT_OF_MEMORY.search(str(error)))


def is_device_lost(error: BaseException) -> bool:
    """Whether the device computes nothing more for this process: only a new one can go on."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    text = str(error)
    if _REFUSED.search(text):
        return False
    return isinstance(error, torch.AcceleratorError) or bool(_LOST.search(text))


def first_line(error: BaseException) -> str:
    """What the error says, without what torch adds below; its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
