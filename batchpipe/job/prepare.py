"""From rows to prompts: rendered and tokenized batch by batch, bad rows set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.job.asked_rows import Asking
from batchpipe.job.fingerprint import InputDigest
from batchpipe.job.fit import fit
from batchpipe.job.language import Language
from batchpipe.job.row_prompts import RowPrompts
from batchpipe.job.token_store import TokenStore
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.rows.batch import Rows, RowSource
from batchpipe.rows.batch_files.openai_job import one_prompt_each, seen_as_requests
from batchpipe.rows.parameters import SamplingReader, check_sampling
from batchpipe.rows.request_ids import CUSTOM_ID, RequestIds
from batchpipe.rows.source import Source, open_source
from batchpipe.rows.template import Template
from batchpipe.structured.constraint import KINDS

DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What is to be run of the input, and which of its rows cannot be."""

    source: RowSource
    faults: dict[int, str]  # row -> why it cannot run
    skipped: frozenset[int]  # the faults that --on-too-long skip asked for
    runnable: npt.NDArray[np.int64]  # rows to run, in input order; one of several prompts repeats
    request_ids: tuple[str, ...]  # [runnable]
    prompts: Prompts  # [runnable]
    samplings: tuple[Sampling, ...]  # [runnable]

    def without(self, faults: dict[int, str]) -> Job:
        """The same job with more faults."""
        keep = np.isin(self.runnable, list(faults), invert=True)
        return replace(self.among(keep), faults={**self.faults, **faults})

    def among(self, wanted: npt.NDArray[np.bool_]) -> Job:  # [runnable]
        """The same job with only these of its runnable rows."""
        keep = np.flatnonzero(wanted)
        return replace(
            self,
            runnable=self.runnable[keep],
            request_ids=tuple(self.request_ids[place] for place in keep.tolist()),
            prompts=self.prompts.take(keep),
            samplings=tuple(self.samplings[place] for place in keep.tolist()),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Remaining:
    """Which rows of a run that was begun before still need an answer, and how they are asked."""

    wanted: npt.NDArray[np.bool_]  # [rows]
    repair: npt.NDArray[np.int32]  # index into overrides  # [rows]
    overrides: tuple[Mapping[str, object], ...]  # sampling parameters, none of them first

    @classmethod
    def everything(cls, rows: int) -> Remaining:
        """Nothing was answered before."""
        return cls(np.ones(rows, dtype=np.bool_), np.zeros(rows, dtype=np.int32), ({},))


def open_job(options: JobOptions) -> tuple[Source, Template | None]:
    """The input and the template, checked against each other before any model is looked at."""
    template = None if options.template is None else Template.from_option(options.template)
    source = open_source(options.input, limit=options.limit)
    if template is None and options.prompt_column is None:
        source = seen_as_requests(
            source,
            options.model_names,
            has_max_tokens="max_tokens" in options.sampling,
            required=options.batch_lines,
        )
    if source.are_requests and options.id_column is not None:
        raise ConfigError(
            f"--id-column {options.id_column}: OpenAI batch lines are named by custom_id; leave it"
        )
    if template is not None and source.names:
        template.check_columns(source.names)
    return source, template


def prepare(
    options: JobOptions,
    source: RowSource,
    template: Template | None,
    language: Language,
    *,
    remaining: Remaining | None = None,
    digest: InputDigest | None = None,
    asking: Asking | None = None,
    spill_folder: str | None = None,
) -> Job:
    """Every remaining row tokenized, with its sampling parameters, or set aside with the reason.

    ``digest`` and ``asking``, where they are given, have then seen all rows. Token ids beyond what
    memory should hold lie in ``spill_folder``.
    """
    left = remaining or Remaining.everything(len(source))
    readers = _Readers(options, source, template, language, left)
    faults: dict[int, str] = {}
    skipped: set[int] = set()
    runnable: list[npt.NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    request_ids: list[str] = []
    samplings: list[Sampling] = []
    with closing(TokenStore(spill_folder)) as store:
        for rows in source.batches():
            if digest is not None:
                digest.update(rows)
            piece = readers.read(rows)
            if asking is not None:
                asking.add(rows, piece.every_id, piece.places, piece.prompts, piece.samplings)
            faults.update((rows.first + place, why) for place, why in piece.faults.items())
            skipped.update(rows.first + place for place in piece.skipped)
            runnable.append(rows.first + piece.places)
            request_ids += piece.request_ids
            samplings += piece.samplings
            store.append(piece.prompts)
        prompts = store.prompts()
    return Job(
        source=source,
        faults=faults,
        skipped=frozenset(skipped),
        runnable=np.concatenate(runnable),
        request_ids=tuple(request_ids),
        prompts=prompts,
        samplings=tuple(samplings),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """What is to be run of one batch, by place in the batch."""

    faults: dict[int, str]
    skipped: frozenset[int]
    places: npt.NDArray[np.int64]  # [prompts]
    prompts: Prompts  # [prompts]
    samplings: tuple[Sampling, ...]  # [prompts]
    request_ids: tuple[str, ...] = ()  # [prompts]
    every_id: tuple[str, ...] = ()  # [rows]


def parameter_columns(
    options: JobOptions, names: Sequence[str], template: Template | None
) -> tuple[str, ...]:
    """The columns that may say how their row is asked: none of a dataframe.

    What the template puts into the prompt, such as the schema of a database, is no form for the
    answer.
    """
    if not options.row_sampling:
        return ()
    shown = () if template is None else template.columns
    return tuple(name for name in names if name not in KINDS or name not in shown)


class _Readers:
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

    def read(self, rows: Rows) -> _Piece:
        """The rows of the batch that are wanted, each a prompt or several, or a fault."""
        span = slice(rows.first, rows.first + len(rows))
        ids = self._ids.read(rows)
        single, places = one_prompt_each(rows)
        piece = self._read(single, self._left.wanted[span][places], self._left.repair[span][places])
        return _of_rows(piece, rows, places, ids, by_line=self._by_line)

    def _read(
        self, rows: Rows, wanted: npt.NDArray[np.bool_], repair: npt.NDArray[np.int32]
    ) -> _Piece:
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
        return _Piece(
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


def default_sampling(
    options: JobOptions, language: Language, *, of_an_api: bool = False
) -> Sampling:
    """How a row that says nothing is sampled: by the options, else by the model's own defaults.

    What neither says is greedy and short for a job's own rows. Requests to an API mean what they
    mean there: a temperature of 1, and answers as long as the context allows.
    """
    context = language.context
    limit = {"max_tokens": min(DEFAULT_MAX_TOKENS, max(1, context // 2))}
    if of_an_api:
        limit = {"max_tokens": max(1, context - 1), "temperature": 1}
    defaults = check_sampling(**{**limit, **language.defaults, **options.sampling})
    if defaults.max_tokens >= context and "max_tokens" in options.sampling:
        raise ConfigError(
            f"--max-tokens {defaults.max_tokens} does not fit the context of {options.model}, "
            f"which has {context} positions for prompt and answer together; lower it"
        )
    # A model's own default may be as long as its context.
    return replace(defaults, max_tokens=min(defaults.max_tokens, max(1, context - 1)))


def _of_rows(
    piece: _Piece, rows: Rows, owners: npt.NDArray[np.int64], ids: list[str], *, by_line: bool
) -> _Piece:
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
    return _Piece(
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
