"""Machines known by name: datasheets, brought down to what steps reach.

They stand in until `batchpipe calibrate` has measured the machine at hand. The efficiencies are
those that BlendServe's Table 1 (ASPLOS'26) implies for an A100: 233 TFLOP/s and 1.73 TB/s.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpipe.planner.machine.machine import Machine

MATMUL_EFFICIENCY = 0.75  # of dense bf16 tensor-core peak
BANDWIDTH_EFFICIENCY = 0.85
ATTENTION_SHARE = 0.5  # of the linear layers' rate: its softmax is no matrix product


@dataclass(frozen=True, slots=True)
class Datasheet:
    """What a vendor says of a GPU."""

    memory_gb: int
    bf16_tflops: float  # dense, float32 sums
    float32_tflops: float  # without TF32, as torch multiplies by default
    tb_per_second: float
    host_gb_per_second: float  # what copies from pinned memory reach over its PCIe link
    title: str

    def machine(self, name: str) -> Machine:
        """The profile of the GPU, with the fixed costs of an engine that replays whole steps."""
        bandwidth = self.tb_per_second * 1e12 * BANDWIDTH_EFFICIENCY
        matmul = self.bf16_tflops * 1e12 * MATMUL_EFFICIENCY
        return Machine(
            name=name,
            memory_bytes=self.memory_gb * 10**9,
            matmul_flops=matmul,
            float32_share=self.float32_tflops / self.bf16_tflops,
            weight_bytes_per_second=bandwidth,
            kv_bytes_per_second=bandwidth,
            attention_flops=matmul * ATTENTION_SHARE,
            step_seconds=3e-4,
            layer_seconds=5e-6,
            sequence_seconds=5e-6,
            host_bytes_per_second=self.host_gb_per_second * 1e9,
            note=(
                f"datasheet of {self.title}: {MATMUL_EFFICIENCY:.0%} of {self.bf16_tflops:g} "
                f"TFLOP/s dense bf16, {BANDWIDTH_EFFICIENCY:.0%} of {self.tb_per_second:g} TB/s; "
                f"attention at {ATTENTION_SHARE:.0%} of the linear layers' rate and the fixed "
                f"costs are guesses"
            ),
        )


DATASHEETS = {
    "h200": Datasheet(141, 989, 67, 4.8, 50, "NVIDIA H200 SXM"),
    "h100": Datasheet(80, 989, 67, 3.35, 50, "NVIDIA H100 SXM"),
    "a100-80g": Datasheet(80, 312, 19.5, 2.039, 25, "NVIDIA A100 SXM 80GB"),
    "l4": Datasheet(24, 121, 30.3, 0.3, 25, "NVIDIA L4"),
    "rtx4090": Datasheet(24, 165, 82.6, 1.008, 25, "NVIDIA GeForce RTX 4090"),
}

CPU = Machine(
    name="cpu-2core",
    memory_bytes=16 * 10**9,
    matmul_flops=0.8e12,
    float32_share=0.5,
    weight_bytes_per_second=20e9,
    kv_bytes_per_second=20e9,
    attention_flops=0.5e12,
    step_seconds=1e-3,
    layer_seconds=3e-4,
    sequence_seconds=5e-5,
    device="cpu",
    host_bytes_per_second=5e9,
    note=(
        "two cores of a server of 2024 with AVX-512 and bfloat16 products; `batchpipe calibrate` "
        "measures the machine at hand"
    ),
)

MACHINES: dict[str, Machine] = {
    **{name: datasheet.machine(name) for name, datasheet in DATASHEETS.items()},
    CPU.name: CPU,
}


def machine_named(name: str) -> Machine:
    """The machine that ships under this name, in whatever case it is written.

    Raises:
        ValueError: there is none; the sentence lists those that there are
    """
    found = MACHINES.get(name.lower())
    if found is None:
        raise ValueError(f"no machine is named {name!r}; known are {', '.join(MACHINES)}")
    return found
