"""What a step costs on a machine: a roofline with fixed costs.

The step-time model of APEX with weight reads and prefix-shared attention. Knows sizes and rates,
nothing of an order or of time passing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.model_shape import DTYPE_BYTES, ModelShape
from batchpipe.planner.machine.step_load import StepLoad


@dataclass(frozen=True)
class StepCost:
    """Seconds that one model's steps take on one machine in one dtype."""

    shape: ModelShape
    machine: Machine
    dtype: str

    # ---- rates ----------------------------------------------------------------------------

    @cached_property
    def token_seconds(self) -> float:
        """One row through all linear layers, where rows are many: 2 P / F_eff."""
        shape = self.shape
        share = shape.experts_per_token / shape.experts if shape.experts else 0.0
        parameters = shape.linear_parameters + shape.expert_parameters * share
        return 2 * parameters / (self.machine.matmul_flops * self._dtype_share)

    @cached_property
    def head_seconds(self) -> float:
        """One row through the output head."""
        return 2 * self.shape.head_parameters / (self.machine.matmul_flops * self._dtype_share)

    @cached_property
    def key_seconds(self) -> float:
        """One token's keys and values read in all layers: H_kv L 2 bytes / B_eff."""
        return self.shape.kv_bytes_per_token(self.dtype) / self.machine.kv_bytes_per_second

    @cached_property
    def pair_seconds(self) -> float:
        """One query against one key that many queries share, in all layers: 4 H_q L / F_attn."""
        shape = self.shape
        flops = 4 * shape.heads * shape.head_dim * shape.layers
        return flops / (self.machine.attention_flops * self._dtype_share)

    @cached_property
    def fixed_seconds(self) -> float:
        """A step with nothing in it."""
        return self.machine.step_seconds + self.shape.layers * self.machine.layer_seconds

    @cached_property
    def apart_seconds(self) -> float:
        """A chunk of several tokens where all others have one.

        On a CPU what it reads is read on its own in every layer, in two parts: some 8 % of what a
        step costs in any case (0.3 of 3.7 ms, 0.6 of 15 ms; one EPYC core). A GPU's kernels take
        all chunks at once.
        """
        return 0.08 * self.fixed_seconds if self.machine.device == "cpu" else 0.0

    @cached_property
    def _dtype_share(self) -> float:
        return 1.0 if DTYPE_BYTES[self.dtype] <= 2 else self.machine.float32_share

    def weights_seconds(self, tokens: int) -> float:
        """Reading the weights of the linear layers once, experts as far as ``tokens`` meet them."""
        shape = self.shape
        experts = 0.0
        if shape.experts:
            # Each token misses an expert with probability 1 - k/E, and tokens choose apart.
            missed = (1 - shape.experts_per_token / shape.experts) ** tokens
            experts = shape.expert_parameters * (1 - missed)
        linear_bytes = shape.linear_parameters * shape.linear_weight_bytes(self.dtype)
        read_bytes = linear_bytes + experts * DTYPE_BYTES[self.dtype]
        return read_bytes / self.machine.weight_bytes_per_second

    @cached_property
    def knee_tokens(self) -> int:
        """Rows up to which the weights' reading hides the computing (the GEMM ridge point)."""
        everything = 1 << 20
        return max(1, int(self.weights_seconds(everything) / self.token_seconds))

    @cached_property
    def plenty_tokens(self) -> int:
        """Rows of a step from which on more of them make none cheaper by over a twentieth."""
        return max(self.knee_tokens, int(20 * self.fixed_seconds / self.token_seconds))

    # ---- a step ---------------------------------------------------------------------------

    def linear_seconds(self, load: StepLoad) -> float:
        """Linear layers and output head, each the slower of computing and reading weights."""
        head_bytes = self.shape.head_parameters * DTYPE_BYTES[self.dtype]
        rows = load.drawn + load.scored
        head = max(rows * self.head_seconds, head_bytes / self.machine.weight_bytes_per_second)
        body = max(load.tokens * self.token_seconds, self.weights_seconds(load.tokens))
        return body + (head if rows else 0.0)

    def compute_seconds(self, load: StepLoad) -> float:
        """The compute-bound part: linear layers, and attention over keys that queries share."""
        seen = 1.0
        if load.prefill_pairs and self._windowed:
            seen = self._seen(load.prefill_pairs / load.prefill_tokens)
        pairs = seen * load.prefill_pairs
        if load.shared_pairs:
            pairs += self._seen(load.shared_pairs / load.decodes) * load.shared_pairs
        return self.linear_seconds(load) + pairs * self.pair_seconds

    def memory_seconds(self, load: StepLoad) -> float:
        """The memory-bound part: keys that decodes read, shared ones once for all of them."""
        keys = load.own_keys + load.shared_keys
        if self._windowed and load.decodes:
            context = (load.own_keys + load.shared_pairs) / load.decodes
            return self._seen(context) * keys * self.key_seconds
        return keys * self.key_seconds

    def seconds(self, load: StepLoad) -> float:
        """The whole step; ``overlap`` hides that share of the shorter part behind the longer."""
        compute, memory = self.compute_seconds(load), self.memory_seconds(load)
        hidden = self.machine.overlap * min(compute, memory)
        return self.overhead_seconds(load) + compute + memory - hidden

    # ---- KV that leaves the device --------------------------------------------------------

    def copy_seconds(self, tokens: int) -> float:
        """The KV of so many tokens copied to the host, or back."""
        kv_bytes = tokens * self.shape.kv_bytes_per_token(self.dtype)
        return kv_bytes / self.machine.host_bytes_per_second

    def prefill_seconds(self, tokens: int, past: int) -> float:
        """Computing so many tokens behind so many others, beside what a step does anyway."""
        pairs = tokens * past + tokens * (tokens + 1) // 2
        seen = self._seen(pairs / tokens) if tokens else 1.0
        return tokens * self.token_seconds + seen * pairs * self.pair_seconds

    def pays_to_set_aside(self, tokens: int, past: int) -> bool:
        """True where copying their KV out and back takes less than computing it again."""
        return 2 * self.copy_seconds(tokens) < self.prefill_seconds(tokens, past)

    def overhead_seconds(self, load: StepLoad) -> float:
        """What a step costs beside computing and reading."""
        return self.fixed_seconds + load.sequences * self.machine.sequence_seconds

    @cached_property
    def _windowed(self) -> bool:
        return any(self.shape.windows)

    def _seen(self, context: float) -> float:
        """Share of a context that the layers' sliding windows let through, on average."""
        if not self._windowed or context <= 0:
            return 1.0
        shares = [min(1.0, window / context) if window else 1.0 for window in self.shape.windows]
        return sum(shares) / len(shares)
