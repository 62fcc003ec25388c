"""What a step draws and how likely the model found it and the prompts' tokens: one copy a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchpipe.engine.logprobs import Logprobs
from batchpipe.engine.model import Decoder
from batchpipe.engine.pieces import Drawn
from batchpipe.engine.prompt_scores import PromptScores
from batchpipe.engine.sampling import SLICE_LOGITS
from batchpipe.engine.token_batch import TokenBatch
from batchpipe.planner.plan import Plan
from batchpipe.planner.request import Sampling
from batchpipe.planner.schedule.segment import Chunk
from batchpipe.planner.schedule.segment import Sequence as Running

Rows = npt.NDArray[np.int64]

# The next token of rows ``start:end`` of all that draw in this step, from their scores.
Sample = Callable[[Tensor, int, int], Tensor]  # [rows, vocab] -> [rows]


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Which rows of a step's scores are read for what; rows count what `TokenBatch.sampled` has."""

    drawing: Rows  # [draws]
    asking: npt.NDArray[np.bool_]  # the draws whose log-probability is asked for  # [draws]
    scoring: Rows  # rising, a row as often as it has followers  # [followers]
    followers: Rows  # token ids  # [followers]
    bounds: list[tuple[Chunk, int, int]]  # the chunks that score, and which followers are theirs


class Measuring:
    """Log-probabilities of a plan that asks for some."""

    def __init__(self, plan: Plan, least_top: int = 0) -> None:
        asked = [n for each in _distinct(plan) for n in (each.logprobs, each.prompt_logprobs)]
        self._plan = plan
        self._top = max((n for n in asked if n is not None), default=0)
        self._top = max(self._top, least_top)
        self._prompts = PromptScores(plan, self._top)
        self._answers: dict[int, list[Logprobs]] = {}  # of each token so far, by prompt

    @staticmethod
    def of(plan: Plan) -> Measuring | None:
        """None where the plan asks for no log-probability."""
        asks = any(
            each.logprobs is not None or each.prompt_logprobs is not None
            for each in _distinct(plan)
        )
        return Measuring(plan) if asks else None

    def grown(self, plan: Plan) -> Measuring:
        """The same for a plan that has grown; what prompts want scored is computed again there."""
        more = Measuring(plan, least_top=self._top)
        for index, parts in self._answers.items():
            more._answers[index] = [part.widened(more._top) for part in parts]
        return more

    def next_tokens(
        self, decoder: Decoder, batch: TokenBatch, chunks: list[Chunk], sample: Sample
    ) -> list[Drawn]:
        """What is drawn, in the order of the chunks; the prompts' scores are kept."""
        reading = self._reading(chunks, batch.sequences)
        tokens: list[Tensor] = []
        packed: list[Tensor] = []
        start = drawn = scored = 0
        for logits in self._logits(decoder, batch, reading):
            end = start + len(logits)
            drawn_end = int(np.searchsorted(reading.drawing, end))
            scored_end = int(np.searchsorted(reading.scoring, end))
            rows = reading.drawing[drawn:drawn_end] - start
            found = sample(_rows(logits, rows), drawn, drawn_end)
            tokens.append(found.int())
            asking = reading.asking[drawn:drawn_end]
            of_prompts = torch.from_numpy(reading.followers[scored:scored_end]).to(found.device)
            chosen = found if asking.all() else found[torch.from_numpy(asking).to(found.device)]
            told = np.concatenate([reading.scoring[scored:scored_end] - start, rows[asking]])
            measure = measured(logits, told, torch.cat([of_prompts, chosen]), self._top)
            packed.extend((measure[: scored_end - scored], measure[scored_end - scored :]))
            start, drawn, scored = end, drawn_end, scored_end
        ordered = [*tokens, *packed[0::2], *packed[1::2]]
        numbers = torch.cat([each.flatten() for each in ordered]).cpu().numpy()
        return self._told(reading, batch.sequences, numbers)

    def add(self, sequence: Running, drawn: Sequence[Drawn]) -> None:
        """These tokens are part of the sequence's answer."""
        found = [each.logprobs for each in drawn if each.logprobs is not None]
        if found:
            self._answers.setdefault(sequence.index, []).extend(found)

    def settle(self, sequence: Running) -> tuple[Logprobs | None, Logprobs | None]:
        """Those of the finished answer and of its prompt, None where none are asked for."""
        top = self._plan.samplings[sequence.index].logprobs
        parts = self._answers.pop(sequence.index, [])
        answer = None
        if top is not None:
            answer = Logprobs.joined([Logprobs.empty(0, self._top), *parts])
            answer = answer.of(0, len(answer), top)
        return answer, self._prompts.settle(sequence)

    def _reading(self, chunks: list[Chunk], sequences: tuple[Running, ...]) -> _Reading:
        drawing: list[int] = []
        none = np.empty(0, dtype=np.int64)
        scoring, followers = [none], [none]
        bounds: list[tuple[Chunk, int, int]] = []
        row = told = 0
        for chunk in chunks:
            if chunk.scoring:
                at, tokens = self._prompts.scoring.followers(chunk.segment, chunk.scoring)
                scoring.append(at - chunk.scoring.start + row)
                followers.append(tokens.astype(np.int64))
                bounds.append((chunk, told, told + len(tokens)))
                told += len(tokens)
                row += len(chunk.scoring)
            drawing.extend(range(row, row + len(chunk.drawing)))
            row += len(chunk.drawing)
        samplings = self._plan.samplings
        asking = np.fromiter(
            (samplings[each.index].logprobs is not None for each in sequences), np.bool_
        )
        return _Reading(
            np.asarray(drawing, dtype=np.int64),
            asking,
            np.concatenate(scoring),
            np.concatenate(followers),
            bounds,
        )

    def _logits(
        self, decoder: Decoder, batch: TokenBatch, reading: _Reading
    ) -> Iterator[Tensor]:  # [rows, vocab]
        """The scores of all rows that are read, in slices where prompts are scored."""
        if not reading.bounds:
            return iter([decoder.logits(batch)])
        return decoder.some_logits(batch, SLICE_LOGITS)

    def _told(
        self, reading: _Reading, sequences: tuple[Running, ...], numbers: npt.NDArray[np.int32]
    ) -> list[Drawn]:
        draws = len(reading.drawing)
        found = Logprobs.unpacked(numbers[draws:].reshape(-1, 2 + 2 * self._top))
        for chunk, start, end in reading.bounds:
            self._prompts.keep(chunk, found.of(start, end))
        place = len(reading.followers)
        drawn: list[Drawn] = []
        tokens, asking = numbers[:draws].tolist(), reading.asking.tolist()
        for sequence, token, asks in zip(sequences, tokens, asking, strict=True):
            drawn.append(Drawn(sequence, token, found.of(place, place + 1) if asks else None))
            place += asks
        return drawn


def _distinct(plan: Plan) -> Iterable[Sampling]:
    """The ways in which its prompts are sampled, each object once: equal ones cost a hash each."""
    return {id(each): each for each in plan.samplings}.values()


def measured(
    logits: Tensor,  # float32  # [rows, vocab]
    rows: Rows,  # any, on the host  # [tokens]
    tokens: Tensor,  # int64, on the device; a negative one counts as token 0  # [tokens]
    top: int,
) -> Tensor:  # int32, as `Logprobs.unpacked` reads it, on the device  # [tokens, 2 + 2 * top]
    """Log-probability and rank of each token in its row, and the likeliest tokens of the row."""
    distinct, place = np.unique(rows, return_inverse=True)
    own = _rows(logits, distinct)
    in_order = len(place) == len(distinct) and bool((np.diff(place) > 0).all())
    to_row = torch.from_numpy(place).to(logits.device)
    total = own.logsumexp(dim=-1)
    scores = own[to_row, tokens.clamp(min=0)]
    values = scores - total[to_row]
    ranks = _ranks(own, None if in_order else to_row, scores)
    columns = [values.view(torch.int32)[:, None], ranks[:, None]]
    if top:
        best, ids = own.topk(top, dim=-1)
        best = best - total[:, None]
        columns += [ids[to_row].int(), best[to_row].view(torch.int32)]
    return torch.cat(columns, dim=1)


def _ranks(
    logits: Tensor,  # [rows, vocab]
    to_row: Tensor | None,  # None: each row has one token, in order  # [tokens]
    scores: Tensor,  # [tokens]
) -> Tensor:  # int32  # [tokens]
    """One more than the tokens of a larger score."""
    if to_row is None:
        return (logits > scores[:, None]).sum(dim=-1).int() + 1
    at_once = max(1, SLICE_LOGITS // logits.shape[1])  # a row may have many tokens
    larger = [scores.new_empty(0, dtype=torch.int64)]
    for start in range(0, len(scores), at_once):
        some = slice(start, start + at_once)
        larger.append((logits[to_row[some]] > scores[some, None]).sum(dim=-1))
    return torch.cat(larger).int() + 1


def _rows(logits: Tensor, rows: Rows) -> Tensor:
    """These rows, which rise, of the scores."""
    if len(rows) == len(logits):
        return logits
    return logits[torch.from_numpy(rows).to(logits.device)]
