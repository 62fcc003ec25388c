"""OUT as a stream: a file of this machine, or one that a storage gets when it is whole."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import pyarrow as pa

from batchpipe.errors import ConfigError
from batchpipe.rows.atomic import written_whole
from batchpipe.rows.location import file_system, local_path, storage_errors


@contextmanager
def writing(out: str) -> Iterator[BinaryIO]:
    """When the block ends, OUT has all that it wrote, packed as its ending says; else the old file.

    Raises:
        OSError: the disk is full, or the storage does not take the file; the message names OUT
    """
    path = local_path(out)
    if path is not None:
        with written_whole(path) as stream, _packed(stream, out) as packed:
            yield packed
        return
    with tempfile.NamedTemporaryFile(prefix="batchpipe-") as whole:
        with _packed(cast(BinaryIO, whole), out) as packed:
            yield packed
        whole.flush()
        _upload(whole.name, out)


def _upload(path: str, out: str) -> None:
    """The file lies at OUT, put there by one call."""
    filesystem, address = file_system(out)
    try:
        with storage_errors(f"cannot write {out}"):
            filesystem.put_file(path, address)
    except ConfigError as error:  # not wrong in itself: the storage may take it at the next try
        raise OSError(str(error)) from error


@contextmanager
def _packed(stream: BinaryIO, out: str) -> Iterator[BinaryIO]:
    if out.lower().endswith(".gz"):
        with gzip.GzipFile(filename="", fileobj=stream, mode="wb", mtime=0) as packed:
            yield cast(BinaryIO, packed)
    elif out.lower().endswith(".zst"):
        # Arrow closes the file under it, and this one is still to be synced.
        with (
            os.fdopen(os.dup(stream.fileno()), "wb") as twin,
            pa.CompressedOutputStream(pa.PythonFile(twin, mode="w"), "zstd") as packed,
        ):
            yield packed
    else:
        yield stream
