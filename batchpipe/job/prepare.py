"""From rows to prompts: rendered and tokenized batch by batch, bad rows set aside."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.job.asked_rows import Asking
from batchpipe.job.fingerprint import InputDigest
from batchpipe.job.language import Language
from batchpipe.job.readers import Readers
from batchpipe.job.remaining import Remaining
from batchpipe.job.token_store import TokenStore
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.rows.batch import RowSource
from batchpipe.rows.batch_files.openai_job import seen_as_requests
from batchpipe.rows.source import Source, open_source
from batchpipe.rows.template import Template


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
    readers = Readers(options, source, template, language, left)
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
