"""From rows to a plan: prompts rendered and tokenized, lengths checked, bad rows set aside."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.rows.parameters import check_sampling, row_sampling
from batchpipe.rows.prompts import PromptTable, build_prompts
from batchpipe.rows.source import Rows, read_rows
from batchpipe.rows.template import Template
from batchpipe.rows.token_ids import joined
from batchpipe.run.fit import fit
from batchpipe.run.language import TOKENIZED_AT_ONCE, Language

DEFAULT_MAX_TOKENS = 256
TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Every input row as either a prompt to run or a fault."""

    rows: Rows
    request_ids: tuple[str, ...]  # [rows]
    faults: dict[int, str]  # row -> why it cannot run
    skipped: frozenset[int]  # the faults that --on-too-long skip asked for
    runnable: npt.NDArray[np.int64]  # rows that can run, in input order
    prompts: Prompts  # [runnable]
    samplings: tuple[Sampling, ...]  # [runnable]

    def without(self, faults: dict[int, str]) -> Job:
        """The same job with more faults."""
        left = self._left(np.isin(self.runnable, list(faults), invert=True))
        return replace(left, faults={**self.faults, **faults})

    def only(self, rows: Collection[int]) -> Job:
        """The same job with only these rows left to run; the others keep their results."""
        return self._left(np.isin(self.runnable, list(rows)))

    def _left(self, stays: npt.NDArray[np.bool_]) -> Job:
        keep = np.flatnonzero(stays)
        return replace(
            self,
            runnable=self.runnable[keep],
            prompts=self.prompts.take(keep),
            samplings=tuple(self.samplings[place] for place in keep.tolist()),
        )


def read_job_rows(options: JobOptions) -> tuple[Rows, Template | None]:
    """The rows and the template, checked against each other before any model is looked at."""
    template = None if options.template is None else Template.from_option(options.template)
    rows = read_rows(options.input, limit=options.limit)
    if template is not None and len(rows):
        template.check_columns(rows.names)
    return rows, template


def prepare(options: JobOptions, rows: Rows, template: Template | None, language: Language) -> Job:
    """Every row tokenized, with its sampling parameters, or set aside with the reason."""
    table = build_prompts(
        rows,
        template=template,
        prompt_column=options.prompt_column,
        id_column=options.id_column,
    )
    samplings = row_sampling(rows, _default_sampling(options, language))
    faults = table.faults.copy()
    for row, sampling in enumerate(samplings):
        if isinstance(sampling, str):
            faults.setdefault(row, sampling)
    asked, prompts = _tokenized(table, faults, language)
    fitted = fit(
        prompts,
        [cast(Sampling, samplings[row]) for row in asked.tolist()],
        context=language.shape.context,
        vocab=language.shape.vocab,
        on_too_long=options.on_too_long,
    )
    faults.update((int(asked[place]), why) for place, why in fitted.faults.items())
    return Job(
        rows=rows,
        request_ids=table.request_ids,
        faults=faults,
        skipped=frozenset(int(asked[place]) for place in fitted.skipped),
        runnable=asked[fitted.kept],
        prompts=fitted.prompts,
        samplings=fitted.samplings,
    )


def _default_sampling(options: JobOptions, language: Language) -> Sampling:
    """How a row that says nothing is sampled: by the options, else by the model's own defaults."""
    context = language.shape.context
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
    """Rows without a fault and their token ids; what a template refuses is one fault more.

    Returns:
        rows, rising  # [prompts]
        token ids  # [prompts]
    """
    faulty = np.zeros(len(table), dtype=np.bool_)
    faulty[list(faults)] = True
    asked = np.flatnonzero(~faulty[table.rows])
    rows = table.rows[asked]
    if isinstance(table.prompts, Prompts):
        return rows, table.prompts.take(asked)
    texts: list[Any] = [table.prompts[place] for place in asked.tolist()]
    if table.kind == "messages":
        rows, texts = _rendered_chats(rows, texts, faults, language)
    parts: list[Prompts] = []
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        some = texts[start : start + TOKENIZED_AT_ONCE]
        # Packed a piece at a time: a list of Python numbers has nine times the bytes.
        parts.append(Prompts.pack(language.tokenize(some, special_tokens=table.kind == "text")))
    prompts = joined(parts)
    empty = prompts.lengths == 0
    faults.update(dict.fromkeys(rows[empty].tolist(), "the prompt has no tokens"))
    return rows[~empty], prompts.take(np.flatnonzero(~empty))


def _rendered_chats(
    rows: npt.NDArray[np.int64], chats: list[Any], faults: dict[int, str], language: Language
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The rows whose messages the chat template takes, and what it makes of them."""
    taken: list[int] = []
    texts: list[str] = []
    for row, messages in zip(rows.tolist(), chats, strict=True):
        try:
            texts.append(language.render_chat(messages))
            taken.append(row)
        except TEMPLATE_ERRORS as error:
            faults[row] = f"the chat template of {language.name} refuses the messages: {error}"
    return np.array(taken, dtype=np.int64), texts
