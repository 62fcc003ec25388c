"""What every row of a job asks of the model, in a few bytes a row.

A run keeps them, so that a changed job can be held against it row by row: names, contents and
prompts as hashes, sampling parameters as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.journal.folder import Folder
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.rows.batch import Rows

ROWS = "rows.parquet"
OF_RUN = b"batchpipe.fingerprint"  # key of the schema's metadata: the run that it is of
NOTHING = 0  # the prompt of a row that asks for nothing, for it cannot run
NO_SAMPLING = -1

Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class AskedRows:
    """What the rows ask; equal hashes of 64 bits are taken for equal things."""

    request_id: Hashes  # [rows]
    content: Hashes  # of all columns  # [rows]
    prompt: Hashes  # of the token ids, `NOTHING` where the row cannot run  # [rows]
    sampling: Codes  # index of its parameters, `NO_SAMPLING` where the row cannot run  # [rows]
    samplings: tuple[str, ...]  # the parameters, as JSON

    def __len__(self) -> int:
        return len(self.request_id)


class Asking:
    """Collects what rows ask, a batch at a time."""

    def __init__(self) -> None:
        self._hashes: list[tuple[Hashes, Hashes, Hashes]] = []
        self._sampling: list[Codes] = []
        self._codes: dict[Sampling, int] = {}

    def add(
        self,
        rows: Rows,
        request_ids: Sequence[str],  # [rows]
        places: npt.NDArray[np.int64],  # of the rows that can run  # [prompts]
        prompts: Prompts,  # [prompts]
        samplings: Sequence[Sampling],  # [prompts]
    ) -> None:
        """The next rows of the input."""
        ids = _hashed(each.encode("utf-8", "surrogatepass") for each in request_ids)
        content = np.frombuffer(bytes.fromhex("".join(rows.hashes)), ">u8").astype(np.uint64)
        prompt = np.full(len(rows), NOTHING, dtype=np.uint64)
        hashes = _hashed(each.tobytes() for each in prompts)
        np.add.at(prompt, places, hashes)  # a row of several prompts has one hash of all
        sampling = np.full(len(rows), NO_SAMPLING, dtype=np.int32)
        codes = self._codes
        sampling[places] = [codes.setdefault(each, len(codes)) for each in samplings]
        self._hashes.append((ids, content, prompt))
        self._sampling.append(sampling)

    def asked(self) -> AskedRows:
        """What all rows ask that were added."""
        none = np.zeros(0, dtype=np.uint64)
        ids, content, prompt = (
            np.concatenate([none, *(piece[column] for piece in self._hashes)])
            for column in range(3)
        )
        return AskedRows(
            ids,
            content,
            prompt,
            np.concatenate([np.zeros(0, dtype=np.int32), *self._sampling]),
            tuple(json.dumps(asdict(each), sort_keys=True) for each in self._codes),
        )


def packed_rows(asked: AskedRows, fingerprint: Mapping[str, Any]) -> bytes:
    """The rows of the run with this fingerprint, as a Parquet file."""
    sampling = pa.DictionaryArray.from_arrays(
        pa.array(asked.sampling, mask=asked.sampling == NO_SAMPLING),
        pa.array(asked.samplings, pa.string()),
    )
    table = pa.table(
        {
            "request_id": asked.request_id,
            "content": asked.content,
            "prompt": asked.prompt,
            "sampling": sampling,
        }
    ).replace_schema_metadata({OF_RUN: _name(fingerprint)})
    stream = pa.BufferOutputStream()
    pq.write_table(
        table,
        stream,
        compression="zstd",
        use_dictionary=["sampling"],
        write_page_checksum=True,
    )
    return bytes(stream.getvalue())


def read_rows(folder: Folder, fingerprint: Mapping[str, Any]) -> AskedRows | None:
    """What the rows of this run asked; None where that is not kept, or damaged."""
    try:
        content = folder.get(ROWS)
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        if table.schema.metadata[OF_RUN] != _name(fingerprint):
            return None
        sampling = table["sampling"].combine_chunks().dictionary_encode()
        return AskedRows(
            table["request_id"].to_numpy(),
            table["content"].to_numpy(),
            table["prompt"].to_numpy(),
            sampling.indices.fill_null(NO_SAMPLING).to_numpy(),
            tuple(sampling.dictionary.to_pylist()),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # pyarrow's errors of damaged files are among these


def _hashed(contents: Any) -> Hashes:
    packed = b"".join(blake2b(each, digest_size=8).digest() for each in contents)
    hashes = np.frombuffer(packed, np.uint64)
    return np.where(hashes == NOTHING, np.uint64(1), hashes)


def _name(fingerprint: Mapping[str, Any]) -> bytes:
    text = json.dumps(fingerprint, sort_keys=True).encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=16).hexdigest().encode()
