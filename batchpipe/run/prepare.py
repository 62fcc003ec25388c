"""From rows to prompts: rendered and tokenized batch by batch, bad rows set aside."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.rows.parameters import SamplingReader, check_sampling
from batchpipe.rows.prompts import PromptReader, PromptTable
from batchpipe.rows.request_ids import RequestIds
from batchpipe.rows.source import Rows, Source, open_source
from batchpipe.rows.template import Template
from batchpipe.rows.token_ids import joined
from batchpipe.run.fingerprint import InputDigest
from batchpipe.run.fit import fit
from batchpipe.run.language import TOKENIZED_AT_ONCE, Language
from batchpipe.run.token_store import TokenStore

DEFAULT_MAX_TOKENS = 256
TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What is to be run of the input, and which of its rows cannot be."""

    source: Source
    faults: dict[int, str]  # row -> why it cannot run
    skipped: frozenset[int]  # the faults that --on-too-long skip asked for
    runnable: npt.NDArray[np.int64]  # rows to run, in input order
    request_ids: tuple[str, ...]  # [runnable]
    prompts: Prompts  # [runnable]
    samplings: tuple[Sampling, ...]  # [runnable]

    def without(self, faults: dict[int, str]) -> Job:
        """The same job with more faults."""
        keep = np.flatnonzero(np.isin(self.runnable, list(faults), invert=True))
        return replace(
            self,
            faults={**self.faults, **faults},
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
    if template is not None and source.names:
        template.check_columns(source.names)
    return source, template


def prepare(
    options: JobOptions,
    source: Source,
    template: Template | None,
    language: Language,
    *,
    remaining: Remaining | None = None,
    digest: InputDigest | None = None,
    spill_folder: str | None = None,
) -> Job:
    """Every remaining row tokenized, with its sampling parameters, or set aside with the reason.

    ``digest``, where it is given, has then seen all rows. Token ids beyond what memory should hold
    lie in ``spill_folder``.
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
    request_ids: list[str]  # [prompts]
    prompts: Prompts  # [prompts]
    samplings: tuple[Sampling, ...]  # [prompts]


class _Readers:
    """How every batch of one job is read."""

    def __init__(
        self,
        options: JobOptions,
        source: Source,
        template: Template | None,
        language: Language,
        left: Remaining,
    ) -> None:
        self._prompts = PromptReader(source, template=template, prompt_column=options.prompt_column)
        self._ids = RequestIds(source, options.id_column)
        defaults = _default_sampling(options, language)
        self._samplings = [SamplingReader(source, defaults, each) for each in left.overrides]
        self._options, self._language, self._left = options, language, left

    def read(self, rows: Rows) -> _Piece:
        """The rows of the batch that are wanted, each a prompt or a fault."""
        span = slice(rows.first, rows.first + len(rows))
        wanted = self._left.wanted[span]
        table = self._prompts.read(rows, wanted)
        request_ids = self._ids.read(rows)
        samplings = self._sampled(rows, np.where(wanted, self._left.repair[span], -1))
        faults = dict(table.faults)
        for place, sampling in enumerate(samplings):
            if isinstance(sampling, str):
                faults.setdefault(place, sampling)
        asked, prompts = _tokenized(table, faults, self._language)
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
            request_ids=[request_ids[place] for place in places.tolist()],
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


def _default_sampling(options: JobOptions, language: Language) -> Sampling:
    """How a row that says nothing is sampled: by the options, else by the model's own defaults."""
    context = language.context
    limit = {"max_tokens": min(DEFAULT_MAX_TOKENS, max(1, context // 2))}
    defaults = check_sampling(**{**limit, **language.defaults, **options.sampling})
    if defaults.max_tokens >= context and "max_tokens" in options.sampling:
        raise ConfigError(
            f"--max-tokens {defaults.max_tokens} does not fit the context of {options.model}, "
            f"which has {context} positions for prompt and answer together; lower it"
        )
    # A model's own default may be as long as its context.
    return replace(defaults, max_tokens=min(defaults.max_tokens, max(1, context - 1)))


def _tokenized(
    table: PromptTable, faults: dict[int, str], language: Language
) -> tuple[npt.NDArray[np.int64], Prompts]:
    """Places without a fault and their token ids; what a template refuses is one fault more.

    Returns:
        places, rising  # [prompts]
        token ids  # [prompts]
    """
    asked = np.flatnonzero(np.isin(table.rows, list(faults), invert=True))
    places = table.rows[asked]
    if isinstance(table.prompts, Prompts):
        return places, table.prompts.take(asked)
    texts: list[Any] = [table.prompts[place] for place in asked.tolist()]
    if table.kind == "messages":
        places, texts = _rendered_chats(places, texts, faults, language)
    parts: list[Prompts] = []
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        some = texts[start : start + TOKENIZED_AT_ONCE]
        # Packed a piece at a time: a list of Python numbers has nine times the bytes.
        parts.append(Prompts.pack(language.tokenize(some, special_tokens=table.kind == "text")))
    prompts = joined(parts)
    empty = prompts.lengths == 0
    faults.update(dict.fromkeys(places[empty].tolist(), "the prompt has no tokens"))
    return places[~empty], prompts.take(np.flatnonzero(~empty))


def _rendered_chats(
    places: npt.NDArray[np.int64], chats: list[Any], faults: dict[int, str], language: Language
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The places whose messages the chat template takes, and what it makes of them."""
    taken: list[int] = []
    texts: list[str] = []
    for place, messages in zip(places.tolist(), chats, strict=True):
        try:
            texts.append(language.render_chat(messages))
            taken.append(place)
        except TEMPLATE_ERRORS as error:
            faults[place] = f"the chat template of {language.name} refuses the messages: {error}"
    return np.array(taken, dtype=np.int64), texts
