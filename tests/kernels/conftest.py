"""Without a GPU, Triton's own interpreter runs the kernels: it must know before it is loaded."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
