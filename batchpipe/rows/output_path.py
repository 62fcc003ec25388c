"""Whether results can be written to OUT, found out before any work is done."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable

from batchpipe.errors import ConfigError
from batchpipe.rows.location import (
    Format,
    file_system,
    format_of,
    local_path,
    storage_errors,
    would_read,
)

ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")


def output_format(out: str) -> Format:
    """The format that OUT's ending chooses; ``ConfigError`` naming the endings otherwise."""
    form = format_of(out)
    if form is None or not out.lower().endswith(ENDINGS):
        raise ConfigError(f"cannot write {out}: its name must end in one of {', '.join(ENDINGS)}")
    return form


def check_output(
    out: str, *, overwrite: bool, source: str | None = None, inputs: Iterable[str] = ()
) -> None:
    """Results can be written to OUT, as far as can be known now; else ``ConfigError``.

    ``source`` is the input as the user named it, ``inputs`` the files that it turned out to be: OUT
    must be none of them, nor lie where the next run would read it as input.
    """
    output_format(out)
    if any(_is_same(out, path) for path in (*inputs, *([source] if source else []))):
        raise ConfigError(f"cannot write {out}: it is the input; choose another name")
    path = local_path(out)
    exists = _check_address(out) if path is None else _check_path(path, out)
    if source and would_read(source, out):
        raise ConfigError(
            f"cannot write {out}: the next run of {source} would read it as input; "
            f"choose another directory"
        )
    if exists and not overwrite:
        raise ConfigError(f"{out} exists: choose another name or give --overwrite")
    if path is not None:
        _try_folder(os.path.dirname(os.path.realpath(path)), out)


def output_exists(out: str) -> bool:
    """True where OUT is a file now; ``ConfigError`` where its storage does not say."""
    path = local_path(out)
    if path is not None:
        return os.path.isfile(path)
    filesystem, address = file_system(out)
    with storage_errors(f"cannot look for {out}"):
        filesystem.invalidate_cache()
        return bool(filesystem.isfile(address))


def _check_path(path: str, out: str) -> bool:
    """True where there is such a file; ``ConfigError`` where there cannot be one."""
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise ConfigError(f"cannot write {out}: the directory {folder} does not exist; make it")
    if os.path.isdir(path):
        raise ConfigError(f"cannot write {out}: it is a directory; name a file")
    return os.path.exists(path)


def _check_address(out: str) -> bool:
    """The same of a URL, by what its storage says now."""
    filesystem, address = file_system(out)
    with storage_errors(f"cannot write {out}"):
        filesystem.invalidate_cache()
        if filesystem.isdir(address):
            raise ConfigError(f"cannot write {out}: it is a directory; name a file")
        return bool(filesystem.exists(address))


def _is_same(out: str, other: str) -> bool:
    path, other_path = local_path(out), local_path(other)
    if path is not None and other_path is not None:
        both_exist = os.path.exists(path) and os.path.exists(other_path)
        return both_exist and os.path.samefile(path, other_path)
    if path is not None or other_path is not None:
        return False
    return file_system(out) == file_system(other)


def _try_folder(folder: str, out: str) -> None:
    """Makes and removes a file: permissions alone do not tell of read-only or full disks."""
    attempt = os.path.join(folder, f".batchpipe-{secrets.token_hex(4)}.tmp")
    try:
        os.close(os.open(attempt, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(attempt)
    except OSError as error:
        raise ConfigError(
            f"cannot write {out}: no file can be made in {folder} ({error.strerror})"
        ) from error
