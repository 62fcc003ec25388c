"""From rows to a plan: prompts rendered and tokenized, lengths checked, bad rows set aside."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for
from batchpipe.planner.plan import Plan, make_plan
from batchpipe.planner.request import Prompts, Sampling, TokenIds
from batchpipe.rows.parameters import check_sampling, row_sampling
from batchpipe.rows.prompts import Prompt, build_prompts
from batchpipe.rows.source import Rows, read_rows
from batchpipe.rows.template import Template
from batchpipe.run.language import Language

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
        keep = [place for place, row in enumerate(self.runnable.tolist()) if row not in faults]
        return replace(
            self,
            faults={**self.faults, **faults},
            runnable=self.runnable[keep],
            prompts=self.prompts.take(np.asarray(keep, dtype=np.int64)),
            samplings=tuple(self.samplings[place] for place in keep),
        )

    def only(self, rows: Collection[int]) -> Job:
        """The same job with only these rows left to run; the others keep their results."""
        keep = [place for place, row in enumerate(self.runnable.tolist()) if row in rows]
        return replace(
            self,
            runnable=self.runnable[keep],
            prompts=self.prompts.take(np.asarray(keep, dtype=np.int64)),
            samplings=tuple(self.samplings[place] for place in keep),
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
    faults = dict(rows.faults)
    for each in (table.prompts, samplings):
        for row, value in enumerate(each):
            if isinstance(value, str):
                faults.setdefault(row, value)
    token_ids = _tokenize(table.prompts, faults, language)
    lengths = _Lengths(options.on_too_long, language.shape.context, language.shape.vocab)
    runnable: list[int] = []
    kept: list[TokenIds] = []
    chosen: list[Sampling] = []
    for row in sorted(token_ids):
        fitted = lengths.fit(row, token_ids.pop(row), cast(Sampling, samplings[row]))
        if isinstance(fitted, str):
            faults[row] = fitted
            continue
        runnable.append(row)
        kept.append(fitted[0])
        chosen.append(fitted[1])
    return Job(
        rows=rows,
        request_ids=table.request_ids,
        faults=faults,
        skipped=frozenset(lengths.skipped),
        runnable=np.asarray(runnable, dtype=np.int64),
        prompts=Prompts.pack(kept),
        samplings=tuple(chosen),
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


def plan_job(job: Job, order: str, kv_blocks: int | None) -> tuple[Job, Plan]:
    """The plan, and the job without the rows that would not fit the KV memory even alone."""
    while True:
        plan = make_plan(job.prompts, job.samplings, order=order)
        if kv_blocks is None:
            return job, plan
        needed = alone_blocks(plan)[plan.first_prompt]
        faults = {
            int(job.runnable[place]): (
                f"prompt and answer need {needed[place] * BLOCK_TOKENS} tokens of KV memory and "
                f"--kv-memory holds {kv_blocks * BLOCK_TOKENS}; give more memory or lower "
                f"max_tokens"
            )
            for place in np.flatnonzero(needed > kv_blocks).tolist()
        }
        if not faults:
            return job, plan
        job = job.without(faults)


def alone_blocks(plan: Plan) -> npt.NDArray[np.int64]:  # [plan.prompts]
    """KV blocks that each prompt holds at its end if it runs alone."""
    tree = plan.tree
    path_blocks = np.zeros(len(tree.parent) + 1, dtype=np.int64)  # the last stands for no node
    spans = zip(tree.parent.tolist(), (tree.end - tree.start).tolist(), strict=True)
    for node, (parent, tokens) in enumerate(spans):
        path_blocks[node] = path_blocks[parent] + blocks_for(tokens)
    answers = np.asarray([sampling.max_tokens for sampling in plan.samplings], dtype=np.int64)
    ranks = plan.rank_of
    tails = plan.prompts.lengths - tree.tail_start[ranks] + answers
    blocks: npt.NDArray[np.int64] = path_blocks[tree.tail_node[ranks]] + -(-tails // BLOCK_TOKENS)
    return blocks


def _tokenize(
    prompts: tuple[Prompt | str, ...], faults: dict[int, str], language: Language
) -> dict[int, TokenIds]:
    """Token ids of every row without a fault; a chat that its template refuses becomes one."""
    token_ids: dict[int, TokenIds] = {}
    texts: dict[int, str] = {}
    chats: dict[int, str] = {}
    for row, prompt in enumerate(prompts):
        if row in faults or isinstance(prompt, str):
            continue
        if prompt.kind == "token_ids":
            token_ids[row] = cast(TokenIds, prompt.value)
        elif prompt.kind == "text":
            texts[row] = cast(str, prompt.value)
        else:
            try:
                chats[row] = language.render_chat(prompt.value)
            except TEMPLATE_ERRORS as error:
                faults[row] = f"the chat template of {language.name} refuses the messages: {error}"
    for rendered, special_tokens in ((texts, True), (chats, False)):
        ids = language.tokenize(list(rendered.values()), special_tokens=special_tokens)
        for row, tokens in zip(rendered, ids, strict=True):
            if tokens:
                token_ids[row] = np.asarray(tokens, dtype=np.int32)
            else:
                faults[row] = "the prompt has no tokens"
    return token_ids


@dataclass(slots=True)
class _Lengths:
    """What happens to a prompt that does not fit the context."""

    on_too_long: str
    context: int
    vocab: int
    skipped: list[int] = field(default_factory=list)

    def fit(
        self, row: int, token_ids: TokenIds, sampling: Sampling
    ) -> tuple[TokenIds, Sampling] | str:
        """The prompt and its sampling as they fit, or a sentence."""
        highest = int(token_ids.max())
        if highest >= self.vocab:
            return f"token id {highest} is not below the model's vocabulary size {self.vocab}"
        if sampling.max_tokens >= self.context:
            return (
                f"max_tokens is {sampling.max_tokens}, and the model's context of {self.context} "
                f"tokens must hold prompt and answer"
            )
        if len(token_ids) >= self.context:
            if self.on_too_long == "truncate-left":
                return token_ids[len(token_ids) - self.context + sampling.max_tokens :], sampling
            if self.on_too_long == "skip":
                self.skipped.append(row)
            return (
                f"prompt has {len(token_ids)} tokens and the model's context is {self.context}, "
                f"answer included; shorten it, or use --on-too-long truncate-left"
            )
        room = self.context - len(token_ids)
        if sampling.max_tokens > room:
            sampling = replace(sampling, max_tokens=room)
        return token_ids, sampling
