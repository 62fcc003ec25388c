"""Rows that are only scored, answered by a model that is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from batchpipe.engine.answer import Answer
from batchpipe.job.fit import fit
from batchpipe.job.language import Language
from batchpipe.job.prompt_list import job_of
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.running.answers import Row
from batchpipe.running.engines import Backend
from batchpipe.running.in_memory import answer_in_memory
from batchpipe.running.progress import Watcher
from batchpipe.scoring import AnswerRows


def scoring_by(
    language: Language, backend: Backend, dtype: str | None, watcher: Watcher
) -> AnswerRows:
    """What `batchpipe.scoring` asks: one answer a row, of a row that does not fit its fault."""

    def answer(prompts: Prompts, samplings: Sequence[Sampling]) -> list[Answer]:
        faults = _too_long(prompts, language.context)
        asked = np.flatnonzero(np.isin(np.arange(len(prompts)), list(faults), invert=True))
        fitted = fit(
            prompts.take(asked),
            [samplings[place] for place in asked.tolist()],
            context=language.context,
            vocab=language.vocab,
            on_too_long="error",
        )
        faults |= {int(asked[place]): why for place, why in fitted.faults.items()}
        job = job_of(len(prompts), fitted, asked[fitted.kept], faults)
        rows = answer_in_memory(job, language, backend, dtype, watcher)
        return [_answer(place, row) for place, row in enumerate(rows)]

    return answer


def _too_long(prompts: Prompts, context: int) -> dict[int, str]:
    """Why rows beyond the context cannot be scored: none is cut, for that would shift its score."""
    lengths = prompts.lengths
    return {
        place: f"prompt and continuation have {lengths[place]} tokens together and the model's "
        f"context is {context}; shorten them"
        for place in np.flatnonzero(lengths > context).tolist()
    }


def _answer(place: int, row: Row) -> Answer:
    if row.answers:
        return row.answers[0]
    return Answer.failed(place, row.result.error or "")
