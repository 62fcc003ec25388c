"""A list of prompts as a job: texts, token ids and chats in any mixture, each with its sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from batchpipe.job.fit import Fitted, fit
from batchpipe.job.language import Language
from batchpipe.job.prepare import Job
from batchpipe.job.row_prompts import rendered, tokenized
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.rows.batch import Record
from batchpipe.rows.memory import MemoryRows
from batchpipe.rows.prompts import SOURCES, PromptReader
from batchpipe.rows.token_ids import joined
from batchpipe.rows.words import shown

NO_PROMPT = "it must be a text, token ids, or a dict with one of prompt, prompt_token_ids, messages"


@dataclass(frozen=True, slots=True, eq=False)
class TokenList:
    """The token ids of the prompts in a list that have some, and why the others have none."""

    places: npt.NDArray[np.int64]  # in the list, rising  # [prompts]
    prompts: Prompts  # [prompts]
    texts: dict[int, str]  # that were tokenized, by place
    faults: dict[int, str]  # by place


@dataclass(frozen=True, slots=True, eq=False)
class PromptList:
    """The job, whose rows are the places in the list, and the texts that were tokenized."""

    job: Job
    texts: dict[int, str]  # none for token ids


def prepare_list(
    prompts: Sequence[object],
    samplings: Sequence[Sampling | str],  # a sentence: why this prompt cannot be sampled so
    language: Language,
    *,
    on_too_long: str,
) -> PromptList:
    """Every prompt tokenized, or set aside with the reason."""
    wrong = {at: why for at, why in enumerate(samplings) if isinstance(why, str)}
    found = tokenized_list(prompts, language, wrong)
    asked, faults = found.places, found.faults
    fitted = fit(
        found.prompts,
        [cast(Sampling, samplings[place]) for place in asked.tolist()],
        context=language.context,
        vocab=language.vocab,
        on_too_long=on_too_long,
    )
    faults.update((int(asked[place]), why) for place, why in fitted.faults.items())
    runnable = asked[fitted.kept]
    job = job_of(
        len(prompts),
        fitted,
        runnable,
        faults,
        skipped=frozenset(int(asked[place]) for place in fitted.skipped),
    )
    return PromptList(job, found.texts)


def job_of(
    rows: int,
    fitted: Fitted,
    runnable: npt.NDArray[np.int64],  # places of what fits, rising  # [fitted]
    faults: dict[int, str],
    skipped: frozenset[int] = frozenset(),
) -> Job:
    """A job whose rows are places in a list."""
    return Job(
        source=MemoryRows("the prompts", (), records=[{}] * rows),
        faults=faults,
        skipped=skipped,
        runnable=runnable,
        request_ids=tuple(f"row-{place}" for place in runnable.tolist()),
        prompts=fitted.prompts,
        samplings=fitted.samplings,
    )


def tokenized_list(
    prompts: Sequence[object], language: Language, wrong: Mapping[int, str]
) -> TokenList:
    """Every prompt tokenized, save those that are ``wrong`` for another reason."""
    records, places, faults = _sorted_by_kind(prompts)
    faults.update(wrong)
    texts: dict[int, str] = {}
    found, packed = [np.zeros(0, dtype=np.int64)], [Prompts.pack([])]
    for column in SOURCES:
        source = MemoryRows("the prompts", (column,), records=records[column])
        reader, origin = PromptReader(source), np.array(places[column], dtype=np.int64)
        for rows in source.batches():
            table = reader.read(rows)
            here = origin[rows.first : rows.first + len(rows)]
            faults.update((int(here[place]), why) for place, why in table.faults.items())
            table = replace(table, rows=here[table.rows])
            if table.kind == "messages":
                table = rendered(table, faults, language)
            if not isinstance(table.prompts, Prompts):
                texts.update(zip(table.rows.tolist(), cast(list[str], table.prompts), strict=True))
            asked, tokens = tokenized(table, faults, language)
            found.append(asked)
            packed.append(tokens)
    asked, tokens = np.concatenate(found), joined(packed)
    order = np.argsort(asked)
    return TokenList(asked[order], tokens.take(order), texts, faults)


def _sorted_by_kind(
    prompts: Sequence[object],
) -> tuple[dict[str, list[Record]], dict[str, list[int]], dict[int, str]]:
    """The prompts of each kind as rows, their places in the list, and why others are none."""
    records: dict[str, list[Record]] = {column: [] for column in SOURCES}
    places: dict[str, list[int]] = {column: [] for column in SOURCES}
    faults: dict[int, str] = {}
    for place, prompt in enumerate(prompts):
        column, cell = _column_of(prompt)
        if column is None:
            faults[place] = f"the prompt is {shown(prompt)}; {NO_PROMPT}"
        else:
            records[column].append({column: cell})
            places[column].append(place)
    return records, places, faults


def _column_of(prompt: object) -> tuple[str | None, object]:
    """The column of a job file that would hold such a prompt, None for what is no prompt."""
    if isinstance(prompt, str):
        return "prompt", prompt
    if isinstance(prompt, Mapping):
        given = [column for column in SOURCES if prompt.get(column) is not None]
        if len(given) != 1:
            # As vLLM has it, the text may stand beside the token ids that it became.
            given = [column for column in given if column == "prompt_token_ids"]
        if not given or not prompt.keys() <= {*SOURCES}:
            return None, None
        return given[0], _plain(prompt[given[0]])
    if isinstance(prompt, (list, tuple, np.ndarray)):
        return "prompt_token_ids", _plain(prompt)
    return None, None


def _plain(cell: object) -> object:
    """A tuple or an array as the list that a file would hold."""
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    return list(cell) if isinstance(cell, tuple) else cell
