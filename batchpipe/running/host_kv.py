"""KV memory of the host beside that of the device: how much of it a run has."""

from __future__ import annotations

from dataclasses import replace

from batchpipe.config import JobOptions
from batchpipe.engine.host_kv import HostKV
from batchpipe.engine.model import Decoder
from batchpipe.errors import ConfigError
from batchpipe.job.kv_memory import available_bytes
from batchpipe.planner.planning import Setting


def beside(
    decoder: Decoder, setting: Setting, options: JobOptions, most_blocks: int
) -> tuple[HostKV | None, Setting]:
    """The setting's KV memory on the host, as far as it is of use; None where that is none.

    Raises:
        ConfigError: the memory that --host-kv-memory names is not there
    """
    blocks = max(0, min(setting.host_blocks, most_blocks))
    setting = replace(setting, host_blocks=blocks)
    if not blocks:
        return None, setting
    host, free = HostKV(decoder.attention, blocks), available_bytes()
    if free is not None and host.nbytes > free:  # left to us, it is a share of what is free
        raise ConfigError(
            f"--host-kv-memory {options.host_kv_memory}: this machine has {free / 1e9:.1f} GB of "
            f"memory free; give less"
        )
    return host, setting
