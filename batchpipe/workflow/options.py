"""What a run of a workflow is asked for besides the workflow itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkflowOptions:
    """The options of `run` that a workflow has; what its models say of themselves goes first."""

    input: str
    out: str
    run_dir: str | None = None
    overwrite: bool = False
    max_errors: str | None = None
    limit: int | None = None
    model: str | None = None  # in place of the workflow's only one
    seed: int = 0
    kv_memory: str = "auto"
    host_kv_memory: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    tensor_parallel: int = 1
    workers: int | None = None  # Ray actors that have the models in memory; None: this process
    ray_address: str | None = None  # None: Ray starts on this machine for the run

    def of_models(self) -> dict[str, object]:
        """What every model is loaded with that does not say otherwise."""
        return {
            "seed": self.seed,
            "kv_memory": self.kv_memory,
            "host_kv_memory": self.host_kv_memory,
            "dtype": self.dtype,
            "device": self.device,
            "tensor_parallel": self.tensor_parallel,
        }
