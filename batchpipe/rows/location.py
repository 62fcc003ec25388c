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
from fsspec.registry import known_implementations

from batchpipe.errors import BatchpipeError, ConfigError
from batchpipe.rows.words import one_line

Format = Literal["parquet", "jsonl"]

# What stores call their checksum or time of change, the surest first.
_MARKS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "updated", "created")
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


def local_path(url: str) -> str | None:
    """The path of a plain name or of a ``file:`` URL; None for what lies elsewhere."""
    if "::" in url:
        return None
    protocol, separator, path = url.partition("://")
    if not separator:
        return url
    return path if protocol in ("file", "local") else None


def file_system(spec: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the address in it.

    Raises ``ConfigError`` for an unknown protocol, and with the install line for a missing package.
    """
    path = local_path(spec)
    try:
        filesystem, address = fsspec.core.url_to_fs(spec if path is None else path)
    except ImportError as error:
        raise ConfigError(f"cannot open {spec}: {error}{_install_line(spec)}") from error
    except ValueError as error:
        raise ConfigError(f"cannot open {spec}: {error}") from error
    return filesystem, str(address)


def _install_line(spec: str) -> str:
    protocol = fsspec.utils.get_protocol(spec.rpartition("::")[2])
    if protocol in ("s3", "s3a"):
        return ": pip install 'batchpipe[s3]'"
    package = str(known_implementations.get(protocol, {}).get("class", ""))
    name = package.partition(".")[0]
    return f": pip install {name}" if name not in ("", "fsspec") else ""


def find_files(spec: str) -> list[Location]:
    """Every job file that ``spec`` names, by name; ``ConfigError`` where there is none."""
    if not spec:  # an unset shell variable; fsspec would take it for the current directory
        raise ConfigError("the input has no name: give a job file, a directory, a glob or a URL")
    filesystem, root = file_system(spec)
    with storage_errors(f"cannot open {spec}"):
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


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Whatever a storage raises in the block is a ``ConfigError``: "``what``: reason"."""
    try:
        yield
    except BatchpipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{what}: {_reason(error)}") from error
    except Exception as error:  # clients of object stores raise classes of their own
        raise ConfigError(f"{what}: {one_line(str(error)) or type(error).__name__}") from error


def _addresses(filesystem: Any, root: str, spec: str) -> list[str]:
    endings = ", ".join(ENDINGS)
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
    path = local_path(spec)
    if path is None:
        return str(filesystem.unstrip_protocol(address))
    if address == root:
        return path
    return address if os.path.isabs(path) else os.path.relpath(address)


def would_read(spec: str, path: str) -> bool:
    """True where a later read of ``spec`` (a directory or a pattern) would pick up ``path``."""
    pattern, target = local_path(spec), local_path(path)
    if pattern is not None and target is not None:
        return _would_read_here(pattern, target)
    if pattern is not None or target is not None:
        return False
    filesystem, root = file_system(spec)
    other, address = file_system(path)
    if filesystem != other:
        return False
    if has_magic(root):
        return fnmatch.fnmatch(address, root)
    in_it = posixpath.dirname(address) == root.rstrip("/")
    return in_it and _is_job_file(posixpath.basename(address))


def _would_read_here(spec: str, path: str) -> bool:
    target = os.path.realpath(path)
    if os.path.isdir(spec):
        in_it = os.path.dirname(target) == os.path.realpath(spec)
        return in_it and _is_job_file(os.path.basename(target))
    if os.path.exists(spec) or not has_magic(spec):
        return False
    return fnmatch.fnmatch(target, os.path.abspath(spec)) or fnmatch.fnmatch(
        os.path.abspath(path), os.path.abspath(spec)
    )


def state_of(location: Location) -> str:
    """What is another text as soon as the file is changed; no byte of it is read for that.

    Raises ``ConfigError`` where the file is not there any more.
    """
    filesystem, address = location.filesystem, location.address
    with storage_errors(f"{location.path} cannot be read"):
        filesystem.invalidate_cache()  # or a store answers from the listing that it made before
        found = filesystem.info(address)
        mark = next((key for key in _MARKS if found.get(key) is not None), None)
        changed = filesystem.ukey(address) if mark is None else f"{mark} {found[mark]}"
    return f"{found.get('size')} bytes, {changed}"


@contextmanager
def reading(location: Location) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked; a file that cannot be read to its end is a ``ConfigError``."""
    packed = location.path.lower().endswith((".gz", ".zst"))
    with storage_errors(f"{location.path} cannot be read"):
        stream = location.filesystem.open(location.address, "rb")
    try:
        with stream:
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
