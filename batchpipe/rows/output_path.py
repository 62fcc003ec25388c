"""Whether results can be written to OUT, found out before any work is done."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable

from batchpipe.errors import ConfigError
from batchpipe.rows.location import Format, format_of, would_read

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
    if "://" in out:
        raise ConfigError(f"cannot write {out}: results go to a local file; copy it from there")
    folder = os.path.dirname(os.path.realpath(out))
    if not os.path.isdir(folder):
        raise ConfigError(f"cannot write {out}: the directory {folder} does not exist; make it")
    if os.path.isdir(out):
        raise ConfigError(f"cannot write {out}: it is a directory; name a file")
    if any(_is_same(out, path) for path in (*inputs, *([source] if source else []))):
        raise ConfigError(f"cannot write {out}: it is the input; choose another name")
    if source and would_read(source, out):
        raise ConfigError(
            f"cannot write {out}: the next run of {source} would read it as input; "
            f"choose another directory"
        )
    if os.path.exists(out) and not overwrite:
        raise ConfigError(f"{out} exists: choose another name or give --overwrite")
    _try_folder(folder, out)


def _is_same(out: str, path: str) -> bool:
    return os.path.exists(out) and os.path.exists(path) and os.path.samefile(out, path)


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
