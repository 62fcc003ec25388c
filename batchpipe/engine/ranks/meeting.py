"""The ranks find each other: a group of torch.distributed that only this machine can reach."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from torch import distributed
from torch._C._distributed_c10d import TCPStore  # torch.distributed gives it, and tells no type

from batchpipe.errors import ConfigError

LOOPBACK = "127.0.0.1"
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
# Ranks read their slices at different speeds, and the first waits for the last.
PATIENCE = timedelta(minutes=30)


def environment(rank: int, ranks: int) -> dict[str, str]:
    """What torch, NCCL and transformers look for, as torchrun sets it; all talk on the loopback."""
    interface = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }


@contextmanager
def being_rank_0(ranks: int) -> Iterator[None]:
    """Within, this process has the environment of the first rank."""
    ours = environment(0, ranks)
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def opened(ranks: int) -> TCPStore:
    """Where the ranks meet: a port of the loopback, which no other machine reaches.

    Raises:
        ConfigError: this process is in a group of its own already
    """
    if distributed.is_initialized():
        raise ConfigError(
            f"--tensor-parallel {ranks} starts its own processes, and this one is in a group of "
            f"torch.distributed already; run it without torchrun"
        )
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    return TCPStore(
        LOOPBACK,
        port,
        ranks,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def joined(ranks: int, port: int) -> TCPStore:
    """The place that rank 0 has opened."""
    return TCPStore(LOOPBACK, port, ranks, is_master=False)


def met(rank: int, ranks: int, store: TCPStore, device: torch.device) -> None:
    """All ranks are here, in the group that transformers divides a model over."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = distributed.distributed_c10d._world
    groups = world.group_count  # by which the ranks call the next one
    try:
        distributed.init_process_group(
            BACKENDS[device.type],
            store=store,
            rank=rank,
            world_size=ranks,
            timeout=PATIENCE,
            device_id=device if device.type == "cuda" else None,
        )
    except RuntimeError:  # a process that tries again would wait for ranks by another name
        world.group_count = groups
        raise


def parted() -> None:
    """The group is no more."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def broken_off(port: int) -> None:
    """Nobody waits any more for a rank that has ended: what was under way comes to nothing.

    Who waits at the meeting place, for one that has not come yet, is told by its lines going dead.
    Later gloo sees by itself that the other end has gone. NCCL, between devices of one machine,
    does not.
    """
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # it has been closed meanwhile
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as line:
                    if _leads_to(line, port):
                        line.shutdown(socket.SHUT_RDWR)
    if distributed.is_initialized() and distributed.get_backend() == "nccl":
        distributed.distributed_c10d._abort_process_group()


def _leads_to(line: socket.socket, port: int) -> bool:
    """True for a connection to this port of this machine."""
    if line.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    peer: tuple[str, int] = line.getpeername()[:2]
    return peer[1] == port and peer[0].rpartition(":")[2] == LOOPBACK
