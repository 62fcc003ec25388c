"""Linear layers whose weights lie in memory as integers, for the CPU.

Each multiplies by exactly ``weight()``, rounded to the dtype of its inputs; inputs are never
rounded. What a product costs, [m, 1024] x [1024, 3072] in bfloat16 on one core (EPYC, AVX-512),
microseconds:

                              m = 1      4     16     64    256   1024
    bfloat16, packed (oneDNN)   FILL
    int8                        FILL
    int4                        FILL
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from batchpipe.kernels.partial import onednn_computes

# torch's own int8 kernel reads each weight once per row and has been tuned for bfloat16 alone; with
# more rows one pass that makes all weights bfloat16 costs less (float32: 881 us against 145 us).
INT8_KERNEL_ROWS = 4


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
        else:  # integers to 127 are exact in every dtype, so that the scale may wait
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
        half = self.in_features // 2
        weight = self.scale.new_empty(self.out_features, self.in_features)
        weight[:, :half] = self.packed << 4 >> 4  # shifts of int8 keep the sign
        weight[:, half:] = self.packed >> 4
        weight.view(*self.scale.shape, -1).mul_(self.scale[:, :, None])
        return weight

    def forward(self, inputs: Tensor) -> Tensor:  # [..., in_features] to [..., out_features]
        """``inputs @ weight().T + bias``."""
        return multiply(inputs, self.weight(), self.bias)


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``inputs @ weight.T + bias`` by the CPU's fastest way for a weight that is used once."""
    if onednn_computes(weight.dtype):  # float32, [64, 512] x [512, 1536]: 2.1 times `nn.Linear`
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return product
    return nn.functional.linear(inputs, weight, bias)
