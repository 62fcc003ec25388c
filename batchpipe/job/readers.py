"""How every batch of one job is read: rows become prompts that fit, or faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from batchpipe.config import JobOptions
from batchpipe.job.fit import fit
from batchpipe.job.language import Language
from batchpipe.job.remaining import Remaining
from batchpipe.job.row_prompts import RowPrompts
from batchpipe.job.row_sampling import default_sampling, parameter_columns
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.rows.batch import Rows, RowSource
from batchpipe.rows.batch_files.openai_job import one_prompt_each
from batchpipe.rows.parameters import SamplingReader
from batchpipe.rows.request_ids import CUSTOM_ID, RequestIds
from batchpipe.rows.template import Template


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What is to be run of one batch, by place in the batch."""

    faults: dict[int, str]
    skipped: frozenset[int]
    places: npt.NDArray[np.int64]  # [prompts]
    prompts: Prompts  # [prompts]
    samplings: tuple[Sampling, ...]  # [prompts]
    request_ids: tuple[str, ...] = ()  # [prompts]
    every_id: tuple[str, ...] = ()  # [rows]


class Readers:
    """How every batch of one job is read."""

    def __init__(
        self,
        options: JobOptions,
        source: RowSource,
        template: Template | None,
        language: Language,
        left: Remaining,
    ) -> None:
        self._prompts = RowPrompts(source, template, options.prompt_column, language)
        self._ids = RequestIds(source, CUSTOM_ID if source.are_requests else options.id_column)
        defaults = default_sampling(options, language, of_an_api=source.are_requests)
        columns = parameter_columns(options, source.names, template)
        self._samplings = [SamplingReader(columns, defaults, each) for each in left.overrides]
        self._options, self._language, self._left = options, language, left
        self._by_line = source.are_requests  # a fault is told with its line

    def read(self, rows: Rows) -> Piece:
        """The rows of the batch that are wanted, each a prompt or several, or a fault."""
        span = slice(rows.first, rows.first + len(rows))
        ids = self._ids.read(rows)
        single, places = one_prompt_each(rows)
        piece = self._read(single, self._left.wanted[span][places], self._left.repair[span][places])
        return _of_rows(piece, rows, places, ids, by_line=self._by_line)

    def _read(
        self, rows: Rows, wanted: npt.NDArray[np.bool_], repair: npt.NDArray[np.int32]
    ) -> Piece:
        samplings = self._sampled(rows, np.where(wanted, repair, -1))
        faults, tables = self._prompts.read(rows, wanted)
        for place, sampling in enumerate(samplings):
            if isinstance(sampling, str):
                faults.setdefault(place, sampling)
        asked, prompts = self._prompts.tokenized(tables, faults)
        fitted = fit(
            prompts,
            [cast(Sampling, samplings[place]) for place in asked.tolist()],
            context=self._language.context,
            vocab=self._language.vocab,
            on_too_long=self._options.on_too_long,
        )
        faults.update((int(asked[place]), why) for place, why in fitted.faults.items())
        places = asked[fitted.kept]
        return Piece(
            faults=faults,
            skipped=frozenset(int(asked[place]) for place in fitted.skipped),
            places=places,
            prompts=fitted.prompts,
            samplings=fitted.samplings,
        )

    def _sampled(self, rows: Rows, repair: npt.NDArray[np.int32]) -> list[Sampling | str | None]:
        """How each row is sampled, or why it cannot be; None for a row in no repair (-1)."""
        chosen: list[Sampling | str | None] = [None] * len(rows)
        for number in np.unique(repair[repair >= 0]).tolist():
            samplings = self._samplings[number].read(rows)
            for place in np.flatnonzero(repair == number).tolist():
                chosen[place] = samplings[place]
        return chosen


def _of_rows(
    piece: Piece, rows: Rows, owners: npt.NDArray[np.int64], ids: list[str], *, by_line: bool
) -> Piece:
    """The piece by the places of these rows, of which ``owners`` has that of every prompt's row.

    A row of several prompts runs with all of them or not at all.
    """
    faults: dict[int, str] = {}
    for place, why in sorted(piece.faults.items()):
        owner = int(owners[place])
        faults.setdefault(owner, rows.named(owner, why) if by_line else why)
    places = owners[piece.places]
    kept = np.flatnonzero(np.isin(places, list(faults), invert=True))
    nth = piece.places - np.searchsorted(owners, places)  # among the prompts of its row
    return Piece(
        faults=faults,
        skipped=frozenset(int(owners[place]) for place in piece.skipped),
        places=places[kept],
        prompts=piece.prompts.take(kept),
        samplings=tuple(piece.samplings[place] for place in kept.tolist()),
        request_ids=tuple(
            f"{ids[place]}[{number}]" if number else ids[place]
            for place, number in zip(places[kept].tolist(), nth[kept].tolist(), strict=True)
        ),
        every_id=tuple(ids),
    )
