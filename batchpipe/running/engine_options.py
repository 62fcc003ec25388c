"""Which options make sense with which engine; what does not is refused with the reason."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from batchpipe.config import ENGINES, JobOptions, RunOptions
from batchpipe.errors import ConfigError
from batchpipe.job.tensor_parallel import check_devices, check_sharing

OF_A_SERVER = ("base_url", "served_model", "api_key_env", "concurrency")
OF_OUR_OWN = ("device", "quantize", "speculate", "machine", "host_kv_memory")
OF_THIS_PROCESS = (*OF_OUR_OWN, "dtype", "kv_memory", "step_tokens")

# A server tells tokens by their texts alone, and ours are ids.
UNTOLD_BY_A_SERVER = ("logprobs", "prompt_logprobs")

MOST_CONNECTIONS = 1000  # of one client

# Engine -> the options that it has no use for, and why.
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "batchpipe": (OF_A_SERVER, "asks a server, and --engine openai alone does so"),
    "openai": (OF_THIS_PROCESS, "is the server's own affair with --engine openai"),
    "vllm": ((*OF_A_SERVER, *OF_OUR_OWN), "is no option of --engine vllm"),
}


def check_engine_options(options: JobOptions, run_options: RunOptions) -> None:
    """The engine is one of `ENGINES`, has what it needs and nothing that it cannot use.

    Raises:
        ConfigError: with the option, its value and the fix
    """
    if options.engine not in ENGINES:
        raise ConfigError(f"--engine {options.engine} is none of {', '.join(ENGINES)}")
    names, why = REFUSED[options.engine]
    for name in names:
        value = _given(name, options, run_options)
        if value is not None:
            raise ConfigError(f"--{name.replace('_', '-')} {value} {why}; leave it out")
    check_sharing(options)
    if options.tensor_parallel > 1 and run_options.workers is None:
        check_devices(options, _cuda_devices())
    _check_workers(options, run_options)
    if options.engine == "openai":
        _check_server(options)
        for name in UNTOLD_BY_A_SERVER:
            value = options.sampling.get(name)
            if value is not None:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: {untold(name)}")


def untold(name: str) -> str:
    """Why a row that asks for this cannot be asked of a server, and the fix."""
    return (
        f"--engine openai cannot tell {name}, for a server tells no token ids; leave it out, or "
        f"use --engine batchpipe or vllm"
    )


def api_key(options: JobOptions) -> str | None:
    """The key that the environment holds, None where none is asked for.

    Raises:
        ConfigError: the variable is not set, or to what is no key
    """
    if options.api_key_env is None:
        return None
    key = os.environ.get(options.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"--api-key-env {options.api_key_env}: the environment has no such variable, or it is "
            f"empty; set it to the key"
        )
    if not (key.isascii() and key.isprintable()):  # no header can carry it
        raise ConfigError(
            f"--api-key-env {options.api_key_env}: its value has characters that no key has; set "
            f"it to the key alone"
        )
    return key


def _cuda_devices() -> int:
    from torch import cuda  # loaded only where devices are counted

    return int(cuda.device_count())


def _check_workers(options: JobOptions, run_options: RunOptions) -> None:
    workers, address = run_options.workers, run_options.ray_address
    if workers is None and address is not None:
        raise ConfigError(f"--ray-address {address} needs --workers, how many of them answer")
    if workers is not None and options.engine != ENGINES[0]:
        raise ConfigError(
            f"--workers {workers} is of --engine {ENGINES[0]} alone; leave it out with "
            f"--engine {options.engine}"
        )


def _given(name: str, options: JobOptions, run_options: RunOptions) -> object:
    """The option's value, None where it was left alone."""
    value: object = getattr(run_options if name == "step_tokens" else options, name)
    return None if value == "auto" else value


def _check_server(options: JobOptions) -> None:
    url = options.base_url
    if not url:
        raise ConfigError("--engine openai needs --base-url, such as http://localhost:8000/v1")
    if not _names_a_server(url):
        raise ConfigError(
            f"--base-url {url} is no address of a server; write for example http://localhost:8000/v1"
        )
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not repeated here: it may hold a secret, which the run directory must never keep.
        raise ConfigError(
            "--base-url must be an address alone, without user, password or query; give a key by "
            "--api-key-env, the name of the variable that holds it"
        )
    wanted = 1 if options.concurrency is None else options.concurrency
    if not 1 <= wanted <= MOST_CONNECTIONS:
        raise ConfigError(f"--concurrency {wanted} must be from 1 to {MOST_CONNECTIONS}")


def _names_a_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is no number, a broken IPv6 address, a name that cannot be
        return False
    behind_brackets = parts.netloc.partition("]")[2]
    bracketed_well = behind_brackets[:1] in ("", ":")
    return parts.scheme in ("http", "https") and bool(host) and port != 0 and bracketed_well
