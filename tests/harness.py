"""The command as a user calls it: in this process where quick, else as a process of its own."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.cli import main

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> Row:
        """The JSON of ``--json``, which must be all that stdout has."""
        [line] = self.out.splitlines()
        return dict(json.loads(line))

    @property
    def sentence(self) -> str:
        """What went wrong; it must be the last line, and no traceback may stand above it."""
        assert "Traceback" not in self.err, self.err
        return self.err.rstrip("\n").rpartition("\n")[2]


def call(*arguments: object, err: io.StringIO | None = None) -> Ran:
    """The command in this process."""
    out, err = io.StringIO(), err or io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return Ran(code, out.getvalue(), err.getvalue())


# Results of every step go to disk at once: so a test sees from outside that a run is under way.
IMPATIENT = """
import sys
from batchpipe.journal import journal
journal.FLUSH_SECONDS = 0.0
from batchpipe.cli import main
main(sys.argv[1:])
"""


def spawn(*arguments: object, script: str = IMPATIENT) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def ended(process: subprocess.Popen[str]) -> Ran:
    """The process once it has ended."""
    out, err = process.communicate()
    return Ran(process.returncode, out, err)


@contextlib.contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """A disk that is full beyond so many bytes a file, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A JSON-lines file of these rows."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    """A Parquet file of these rows."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path: Path) -> list[Row]:
    """The rows of a results file."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if path.suffix == ".zst":
        with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
            content = stream.read()
    return [json.loads(line) for line in content.splitlines()]


def files_in(folder: Path) -> set[str]:
    """Names of all that lies in the folder, hidden files too."""
    return {path.name for path in folder.iterdir()}
