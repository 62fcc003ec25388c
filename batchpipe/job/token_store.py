"""The token ids of all prompts of a job: in memory while they are few, else in a mapped file.

The file has no name: whatever ends the run, nothing of it stays on the disk.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from typing import IO

import numpy as np
import numpy.typing as npt

from batchpipe.planner.request import Prompts, TokenIds

IN_MEMORY_BYTES = 256 << 20


class TokenStore:
    """Takes prompts piece by piece and gives them back as one.

    Args:
        folder: where the file lies once it is needed; None for the system's temporary directory
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._pieces: list[TokenIds] = []  # not in the file yet
        self._pieces_bytes = 0
        self._file: IO[bytes] | None = None
        self._lengths: list[npt.NDArray[np.int64]] = []

    def append(self, prompts: Prompts) -> None:
        """These prompts stand behind those before.

        Raises:
            OSError: the disk is full
        """
        token_ids, _ = prompts.end_to_end("int32")
        self._lengths.append(prompts.lengths)
        self._pieces.append(token_ids)
        self._pieces_bytes += token_ids.nbytes
        if self._pieces_bytes > IN_MEMORY_BYTES:
            self._spill()

    def prompts(self) -> Prompts:
        """All prompts in the order in which they came."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, dtype=np.int64)
        ends = np.cumsum(lengths)
        return Prompts(self._token_ids(), ends - lengths, ends)

    def close(self) -> None:
        """No more prompts come; what was given back stays."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk; what is written was flushed
                self._file.close()

    def _token_ids(self) -> TokenIds:
        if self._file is None:
            return np.concatenate(self._pieces) if self._pieces else np.zeros(0, dtype=np.int32)
        self._spill()
        self._file.flush()
        # A plain array over the mapping: slices of a memmap are memmaps, which take far longer.
        return np.asarray(np.memmap(self._file, dtype=np.int32, mode="r"))

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        for piece in self._pieces:
            self._file.write(piece.data)
        self._pieces.clear()
        self._pieces_bytes = 0
