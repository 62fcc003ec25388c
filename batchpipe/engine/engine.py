"""Executes a plan: form a step, run it, draw tokens, settle; answers come out as they finish."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping
from itertools import groupby

import numpy as np

from batchpipe.engine.answer import ENDED_ITSELF, Answer
from batchpipe.engine.drafting import PromptLookup, kept
from batchpipe.engine.host_kv import HostKV
from batchpipe.engine.measuring import Measuring
from batchpipe.engine.model import Decoder
from batchpipe.engine.pieces import Drawn, Pieces, told_if_lost
from batchpipe.engine.sampling import NO_TOKEN, Draw, sample, stream_key
from batchpipe.engine.text import Detokenizer, StopStrings
from batchpipe.engine.token_batch import form
from batchpipe.planner.kv_ledger import KVLedger
from batchpipe.planner.lengths import OutputLengths
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan import Plan
from batchpipe.planner.request import Sampling
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.pace import Pace
from batchpipe.planner.schedule.segment import Chunk, Sequence
from batchpipe.planner.schedule.speculation import Speculation
from batchpipe.planner.schedule.step import Step
from batchpipe.planner.schedule.token_batcher import TokenBatcher
from batchpipe.structured.masks import Masks


class Engine:
    """Runs one plan on one decoder.

    Args:
        decoder: the loaded model
        plan: what to answer
        kv_blocks: blocks of the decoder's paged KV
        pace: how many prompt tokens go beside the decodes of a step
        eos_token_ids: the model's own ends of an answer
        request_ids: name of each prompt's row; with ``seed`` it names the row's random numbers
        tokenizer: needed where any prompt has stop strings
        lengths: what is known of answers, and learns more
        speculate_by: what steps cost, so that tokens are guessed ahead where that pays; None: never
        host: memory for KV that has to leave the device; None: it is computed again
        swap_by: what steps and copies cost, so that KV goes there where that pays; None: never
        masks: what holds answers to their constraints; needed where any prompt has one
    """

    def __init__(
        self,
        decoder: Decoder,
        plan: Plan,
        *,
        kv_blocks: int,
        pace: Pace,
        eos_token_ids: frozenset[int],
        request_ids: list[str],
        seed: int = 0,
        tokenizer: Detokenizer | None = None,
        lengths: OutputLengths | None = None,
        speculate_by: StepCost | None = None,
        host: HostKV | None = None,
        swap_by: StepCost | None = None,
        masks: Masks | None = None,
    ) -> None:
        self.decoder = decoder
        self._masks = masks
        self._lookup = PromptLookup(plan.prompts)
        speculation = None
        if speculate_by is not None:
            speculation = Speculation(speculate_by, self._lookup)
        self._host = host
        self.batcher = TokenBatcher(
            plan,
            KVLedger(kv_blocks),
            pace,
            lengths=lengths,
            speculation=speculation,
            host=None if host is None else KVLedger(host.blocks),
            swap_by=swap_by,
        )
        self.eos_token_ids = eos_token_ids
        self._pieces = Pieces(decoder)
        self._request_ids = request_ids
        self._seed = seed
        self._tokenizer = tokenizer
        self._stop_strings: dict[tuple[str, ...], StopStrings] = {}
        self._began = array("d")  # when each step did, by the performance counter
        self._keys: dict[int, int] = {}  # random streams of the running prompts
        self._measuring = Measuring.of(plan)
        self._greedy = all(map(_is_greedy, plan.samplings))

    @property
    def plan(self) -> Plan:
        """What is answered."""
        return self.batcher.plan

    @property
    def counts(self) -> Counts:
        """Tokens and steps so far."""
        return self.batcher.counts

    @property
    def memory_shortages(self) -> int:
        """How often memory ran short, each time to go on in smaller pieces."""
        return self._pieces.shortages

    @property
    def most_tokens(self) -> int | None:
        """Tokens that are computed at once since the last shortage; None while there was none."""
        return self._pieces.most_tokens

    def steps(self) -> Iterator[list[Answer]]:
        """Run the plan step by step; each gives the answers that it finished, often none.

        Every prompt is answered once. Between two steps the caller may stop for good.

        Raises:
            OutOfMemory: there is no room for a single token
            DeviceLost: the device fails for good
        """
        try:
            while (answers := self.step()) is not None:
                yield answers
        finally:
            self.close()

    def step(self) -> list[Answer] | None:
        """The answers that the next step finished; None where all that is planned is answered.

        Raises:
            OutOfMemory: there is no room for a single token
            DeviceLost: the device fails for good
        """
        step = self._next_step()
        if step is None:
            return None
        if self._host is not None and step.moves:
            with told_if_lost(self.decoder.device):
                self._host.make(step.moves)
        drawn = self._pieces.run(step.all_chunks(), self._next_tokens)
        self.batcher.computed(step)
        answers: list[Answer] = []
        for sequence, ones in groupby(drawn, key=_sequence):
            found = list(ones)
            tokens = kept([each.token for each in found], step.drafts.get(sequence.index))
            answer = self._settle(sequence, found[: len(tokens)])
            if answer is not None:
                answers.append(answer)
        return answers + [self._finish(sequence, "length") for sequence in step.silent]

    def grown(self, names: Mapping[int, str]) -> None:
        """Prompts have joined the batcher's plan; these are the names of their rows, by prompt.

        Their numbers may have been those of prompts that are answered.
        """
        plan = self.plan
        new = len(plan.prompts) - len(self._request_ids)
        self._request_ids = [*self._request_ids, *[""] * new]
        for index, name in names.items():
            self._request_ids[index] = name
        self._lookup.prompts = plan.prompts
        self._greedy = all(map(_is_greedy, plan.samplings))
        if self._masks is not None:
            self._masks.grown(plan.samplings, names)
        known, self._measuring = self._measuring, Measuring.of(plan)
        if known is not None and self._measuring is not None:
            self._measuring = known.grown(plan)

    def close(self) -> None:
        """Nothing is prepared for steps to come, and none will be taken."""
        self.decoder.close()
        if self._masks is not None:
            self._masks.close()

    def _next_step(self) -> Step | None:
        self._began.append(time.perf_counter())
        return self.batcher.next_step()

    def _next_tokens(self, chunks: list[Chunk]) -> list[Drawn]:
        """The chunks' KV is stored, and every sequence that they complete has drawn a token.

        With a draft it has drawn one behind each guess as well. Nothing else has changed: it can be
        done again.
        """
        batch, masks = form(chunks, self.decoder.device), self._masks
        draws: list[Draw] = []
        if not self._greedy:
            draws = [self._draw(chunk, place) for chunk in chunks for place in chunk.drawing]
        if self._measuring is not None:
            return self._measuring.next_tokens(
                self.decoder,
                batch,
                chunks,
                # What is measured are the model's own scores: the masks get a copy.
                lambda logits, start, end: sample(
                    logits if masks is None else masks.apply(logits.clone(), chunks, start),
                    draws[start:end],
                ),
            )
        logits = self.decoder.logits(batch)
        tokens = sample(logits if masks is None else masks.apply(logits, chunks), draws).tolist()
        return [Drawn(*pair) for pair in zip(batch.sequences, tokens, strict=True)]

    def _draw(self, chunk: Chunk, place: int) -> Draw:
        """The draw behind this place of the chunk's segment, as if all before it were drawn."""
        assert chunk.sequence is not None, "nobody draws behind this chunk"
        index = chunk.sequence.index
        sampling = self.plan.samplings[index]
        history = None
        if sampling.repetition_penalty != 1:
            answer = np.asarray(chunk.sequence.answer, dtype=np.int32)
            guessed = chunk.guessed(0, place + 1).astype(np.int32)
            history = np.concatenate([self.plan.prompts[index], answer, guessed])
        step = place + 1 - len(chunk.segment.prompt)
        return Draw(sampling, self._key(index), step, history)

    def _key(self, index: int) -> int:
        key = self._keys.get(index)
        if key is None:
            own = self.plan.samplings[index].seed
            seed, name = (self._seed, self._request_ids[index]) if own is None else (own, None)
            key = self._keys[index] = stream_key(seed, name, int(self.plan.sample[index]))
        return key

    def _settle(self, sequence: Sequence, drawn: list[Drawn]) -> Answer | None:
        """The tokens, up to one that ends it, belong to the sequence; its answer if one does."""
        ended_by = None
        settled: list[int] = []
        for _, token, _ in drawn:
            settled.append(token)
            ended_by = self._append(sequence, token)
            if ended_by is not None:
                break
        self.batcher.drew(sequence, settled)
        if self._measuring is not None:
            self._measuring.add(sequence, drawn[: len(settled)])
        return None if ended_by is None else self._finish(sequence, ended_by)

    def _append(self, sequence: Sequence, token: int) -> str | None:
        """The sequence has one token more; what ended it if that did."""
        masks, index = self._masks, sequence.index
        if token == NO_TOKEN:
            return "stuck" if masks is not None and masks.is_stuck(index) else "nan"
        sequence.answer.append(token)
        sampling = self.plan.samplings[index]
        if token in sampling.stop_token_ids:
            return "eos"
        if token in self.eos_token_ids and not sampling.ignore_eos:
            return "eos"
        if sampling.stop and self._stops(sampling.stop).found(sequence.answer):
            return "stop_string"
        if masks is not None and masks.accept(index, token):
            return "complete"
        return "length" if len(sequence.answer) >= sampling.max_tokens else None

    def _finish(self, sequence: Sequence, ended_by: str) -> Answer:
        answer = tuple(sequence.answer)
        self.batcher.finish(sequence, ended_itself=ended_by in ENDED_ITSELF)
        self._keys.pop(sequence.index, None)
        if self._masks is not None:
            self._masks.forget(sequence.index)
        found = (None, None) if self._measuring is None else self._measuring.settle(sequence)
        if any(each is not None and not each.are_numbers for each in found):
            ended_by = "nan"
        return Answer(
            sequence.index,
            answer,
            ended_by,
            max(0, sequence.cached_tokens),
            logprobs=found[0],
            prompt_logprobs=found[1],
            seconds=time.perf_counter() - self._began[sequence.admitted],
        )

    def _stops(self, stops: tuple[str, ...]) -> StopStrings:
        if stops not in self._stop_strings:
            assert self._tokenizer is not None, "stop strings need a tokenizer"
            self._stop_strings[stops] = StopStrings(self._tokenizer, stops)
        return self._stop_strings[stops]


def _is_greedy(sampling: Sampling) -> bool:
    return sampling.temperature == 0 and sampling.repetition_penalty == 1


def _sequence(drawn: Drawn) -> Sequence:
    return drawn.sequence
