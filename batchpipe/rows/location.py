"""Where job files lie: one name, directory, glob or URL becomes a list of files to open."""

from __future__ import annotations

import fnmatch
import gzip
import io
import os
import posixpath
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, cast

import fsspec
import pyarrow as pa

from batchpipe.errors import ConfigError

Format = Literal["parquet", "jsonl"]

_LINES = (".jsonl", ".ndjson", ".json")
ENDINGS: dict[str, Format] = {
    ".parquet": "parquet",
    **{f"{base}{packed}": "jsonl" for base in _LINES for packed in ("", ".gz", ".zst")},
}


@dataclass(frozen=True, slots=True)
class Location:
    """One job file: ``path`` as the user named it, ``name`` the same from any directory."""

    path: str
    name: str
    format: Format
    address: str  # inside the file system
    filesystem: Any


def format_of(path: str) -> Format | None:
    """The format that the ending of ``path`` promises, or None for a foreign ending."""
    lowered = path.lower()
    return next((form for ending, form in ENDINGS.items() if lowered.endswith(ending)), None)


def find_files(spec: str) -> list[Location]:
    """Every job file that ``spec`` names, by name; ``ConfigError`` where there is none."""
    if not spec:  # an unset shell variable; fsspec would take it for the current directory
        raise ConfigError("the input has no name: give a job file, a directory, a glob or a URL")
    filesystem, root = _file_system(spec)
    addresses = _addresses(filesystem, root, spec)
    shared = posixpath.commonpath([posixpath.dirname(address) for address in addresses])
    return [
        Location(
            path=_shown(spec, filesystem, root, address),
            name=posixpath.relpath(address, shared) if shared else address,
            format=cast(Format, format_of(address)),
            address=address,
            filesystem=filesystem,
        )
        for address in addresses
    ]


def _file_system(spec: str) -> tuple[Any, str]:
    try:
        filesystem, root = fsspec.core.url_to_fs(spec)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"cannot open {spec}: {error}") from error
    return filesystem, str(root)


def _addresses(filesystem: Any, root: str, spec: str) -> list[str]:
    endings = ", ".join(ENDINGS)
    try:
        if filesystem.isfile(root):
            if format_of(root) is None:
                raise ConfigError(f"{spec} is no job file: its name must end in one of {endings}")
            return [root]
        if filesystem.isdir(root):
            names = sorted(filesystem.ls(root, detail=False))
            found = [name for name in names if _is_job_file(posixpath.basename(name))]
            if not found:
                raise ConfigError(f"{spec} holds no job files: no name in it ends in {endings}")
            return [name for name in found if filesystem.isfile(name)]
        matches = filesystem.glob(root) if has_magic(root) else []
    except OSError as error:
        raise ConfigError(f"cannot open {spec}: {_reason(error)}") from error
    if not matches:
        raise ConfigError(f"{spec} {'matches no file' if has_magic(root) else 'does not exist'}")
    found = sorted(name for name in matches if format_of(name) and filesystem.isfile(name))
    if not found:
        raise ConfigError(f"{spec} matches no job files: no name ends in {endings}")
    return found


def has_magic(path: str) -> bool:
    """True where ``path`` is a pattern and not a plain name."""
    return any(sign in path for sign in "*?[")


def _is_job_file(name: str) -> bool:
    return not name.startswith((".", "_")) and format_of(name) is not None


def _shown(spec: str, filesystem: Any, root: str, address: str) -> str:
    if "://" in spec or "::" in spec:
        return str(filesystem.unstrip_protocol(address))
    if address == root:
        return spec
    return address if os.path.isabs(spec) else os.path.relpath(address)


def would_read(spec: str, path: str) -> bool:
    """True where a later read of ``spec`` (a directory or a pattern) would pick up ``path``."""
    if "://" in spec:
        return False
    target = os.path.realpath(path)
    if os.path.isdir(spec):
        in_it = os.path.dirname(target) == os.path.realpath(spec)
        return in_it and _is_job_file(os.path.basename(target))
    if os.path.exists(spec) or not has_magic(spec):
        return False
    return fnmatch.fnmatch(target, os.path.abspath(spec)) or fnmatch.fnmatch(
        os.path.abspath(path), os.path.abspath(spec)
    )


@contextmanager
def reading(location: Location) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked; a file that cannot be read to its end is a ``ConfigError``."""
    packed = location.path.lower().endswith((".gz", ".zst"))
    try:
        with location.filesystem.open(location.address, "rb") as stream:
            yield _unpacked(stream, location.path)
    except (EOFError, zlib.error) as error:
        raise ConfigError(f"{location.path} is truncated or damaged: {error}") from error
    except OSError as error:
        what = "is truncated or damaged" if packed and error.errno is None else "cannot be read"
        raise ConfigError(f"{location.path} {what}: {_reason(error)}") from error


def _unpacked(stream: BinaryIO, path: str) -> BinaryIO:
    if path.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if path.lower().endswith(".zst"):
        unpacked = pa.CompressedInputStream(stream, "zstd")
        return cast(BinaryIO, io.BufferedReader(unpacked, buffer_size=1 << 20))
    return stream


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
