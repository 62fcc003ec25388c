"""Linear layers whose weights lie in memory as integers, for the CPU.

Each multiplies by ``weight()``, whose integers are exact in every dtype; inputs are not rounded. A
product in microseconds, [m, 1024] x [1024, 3072] on one core (EPYC, AVX-512), weights out of cache:

                                 m = 1      4     16     64    256   1024
    bfloat16, packed (oneDNN)      218    251    399  1,007  3,569 13,839
      int8                         207    242    734  1,377  4,153 15,043
      int4                       1,546  1,547  1,564  2,121  4,837 15,374
    float32, packed (oneDNN)       369    437    782  2,063  7,434 29,516
      int8                         438    706  1,017  2,531  8,135 32,261
      int4                       1,036  1,412  1,731  3,197  9,032 32,354

So on a CPU they save memory, and next to nothing in time. What else there is loses: torch's int8
kernel has a fast form for bfloat16 alone and reads the weights once for every row ([4, 512] x
[512, 1536]: 46 us, packed 34 us; 64 rows: 695 and 223 us; in float32 54 ms and 0.6 ms), and so does
its int4 kernel (64 rows: 596 us). torchao's own CPU product makes the weight whole too, and in
float32 multiplies by it 2.1 times more slowly than oneDNN. Products of integers would have to round
the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from batchpipe.kernels.partial import onednn_computes

INT8_KERNEL_ROWS = 4  # up to here torch's int8 kernel is the fastest in bfloat16


class Int8Linear(nn.Module):
    """The product with ``values * scale``, one scale for each row of the weight."""

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = values.shape
        self.values = values.contiguous()  # int8  # [out_features, in_features]
        self.scale = scale.contiguous()  # of the inputs' dtype  # [out_features]
        self.bias = bias

    def weight(self) -> Tensor:  # of the scale's dtype  # [out_features, in_features]
        """What the layer multiplies by."""
        return self.values.to(self.scale.dtype) * self.scale[:, None]

    def forward(self, inputs: Tensor) -> Tensor:  # [..., in_features] to [..., out_features]
        """``inputs @ weight().T + bias``."""
        rows = inputs.shape[:-1].numel()
        if inputs.dtype is torch.bfloat16 and 0 < rows <= INT8_KERNEL_ROWS:
            flat = inputs.reshape(rows, self.in_features).contiguous()
            product = torch._weight_int8pack_mm(flat, self.values, self.scale)
            product = product.view(*inputs.shape[:-1], self.out_features)
        elif inputs.dtype is torch.float16:  # sums of integers would pass its largest number
            return multiply(inputs, self.weight(), self.bias)
        else:  # the integers are exact, so that the scale may wait
            product = multiply(inputs, self.values.to(inputs.dtype), None) * self.scale
        return product if self.bias is None else product + self.bias


class Int4Linear(nn.Module):
    """The product with ``values * scale``, one scale for each group of columns of each row.

    Two values share a byte: column ``c`` the lower half, column ``c + in_features / 2`` the upper.
    So both halves of a weight are unpacked as they lie.
    """

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = values.shape
        low, high = values.chunk(2, dim=1)
        self.packed = low & 15 | high << 4  # int8  # [out_features, in_features / 2]
        self.scale = scale.contiguous()  # of the inputs' dtype  # [out_features, groups]
        self.bias = bias

    def weight(self) -> Tensor:  # of the scale's dtype  # [out_features, in_features]
        """What the layer multiplies by."""
        halves = (self.packed << 4 >> 4, self.packed >> 4)  # shifts of int8 keep the sign
        weight = torch.cat(halves, dim=1).to(self.scale.dtype)
        weight.view(*self.scale.shape, -1).mul_(self.scale[:, :, None])
        return weight

    def forward(self, inputs: Tensor) -> Tensor:  # [..., in_features] to [..., out_features]
        """``inputs @ weight().T + bias``."""
        return multiply(inputs, self.weight(), self.bias)


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``inputs @ weight.T + bias`` by the CPU's fastest way for a weight that is used once."""
    if onednn_computes(weight.dtype):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return product
    return nn.functional.linear(inputs, weight, bias)
