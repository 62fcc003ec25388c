"""The engine without a model: plays a plan through a `TokenBatcher` and checks every step.

KV memory is a dict from slot to token id, written when a chunk is computed. Every query's context
must then hold exactly the tokens that come before it: a block owned twice, freed too early or read
before it is written shows as a wrong token. Host memory is another, filled by a step's moves alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger, blocks_for
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.host_memory import Move
from batchpipe.planner.schedule.segment import Chunk, Segment, Sequence
from batchpipe.planner.schedule.token_batcher import TokenBatcher


def answer_token(index: int, produced: int) -> int:
    """What the played model says: the tokens of two answers never meet."""
    return 1_000_000 + 1_000 * index + produced


def alone_blocks(plan: Plan) -> list[int]:
    """KV blocks that each prompt holds at its end where it runs alone."""
    tree, needed = plan.tree, []
    for index, sampling in enumerate(plan.samplings):
        rank = int(plan.rank_of[index])
        path = sum(blocks_for(int(tree.end[n]) - int(tree.start[n])) for n in tree.path(rank))
        own = len(plan.prompts[index]) - int(tree.tail_start[rank]) + sampling.max_tokens
        needed.append(path + blocks_for(own))
    return needed


def ample_blocks(plan: Plan) -> int:
    """Blocks for which nothing has ever to wait or to leave."""
    return sum(alone_blocks(plan)) + 1


def ancestors(segment: Segment) -> list[Segment]:
    """The segments above, the nearest first."""
    above = []
    while segment.parent is not None:
        above.append(segment.parent)
        segment = segment.parent
    return above


def known_end(chunk: Chunk) -> int:
    """The chunk's end without what is guessed."""
    return chunk.end if chunk.draft is None else chunk.draft.start


def make_moves(moves: Iterable[Move], device: dict[int, int], host: dict[int, int]) -> None:
    """The tokens are copied from slot to slot, a move after the other; a source must be written."""
    for move in moves:
        source, target = (device, host) if move.out else (host, device)
        froms, tos = (move.device, move.host) if move.out else (move.host, move.device)
        assert len(froms) == len(tos) == len(set(tos.tolist())) > 0
        found = [source[slot] for slot in froms.tolist()]
        target.update(zip(tos.tolist(), found, strict=True))


@dataclass(eq=False)
class DryRun:
    """A plan on its way; ``answer_lengths[i]`` tokens end the answer of prompt i."""

    plan: Plan
    batcher: TokenBatcher
    answer_lengths: list[int]  # [prompts], none over its max_tokens
    step_tokens: int  # the most that a step may hold beside decodes
    answers: dict[int, list[int]] = field(default_factory=dict)  # of finished prompts
    cached_tokens: dict[int, int] = field(default_factory=dict)
    prompt_tokens_computed: int = 0  # counted from the chunks alone
    accepted_tokens: int = 0
    node_tokens_computed: dict[int, int] = field(default_factory=dict)  # by tree node
    memory: dict[int, int] = field(default_factory=dict)  # token by KV slot
    scored: dict[int, set[int]] = field(default_factory=dict)  # places by node, ~prompt for tails
    segments: dict[int, Segment] = field(default_factory=dict)  # all that ever held KV
    reserved: list[int] = field(default_factory=list)  # blocks that the test itself owns
    host: KVLedger | None = None  # that the batcher has
    host_memory: dict[int, int] = field(default_factory=dict)  # token by host slot
    moves: list[Move] = field(default_factory=list)  # of all steps

    def steps(self) -> Iterator[list[Chunk]]:
        """Each step, checked, before it is computed; everything is checked again at the end."""
        while True:
            decoding = list(self.batcher.decoding.sequences.values())
            preemptions = self.batcher.counts.preemptions
            step = self.batcher.next_step()
            if step is None:
                break
            chunks = step.all_chunks()
            self._check_load(chunks, step.load)
            self._see_segments(chunks)
            preempted = self.batcher.counts.preemptions > preemptions
            self._check_decodes(chunks, decoding, preempted)
            self._check_chunks(chunks)
            self._check_tree_order(chunks)
            self._check_blocks()
            make_moves(step.moves, self.memory, self.host_memory)
            self.moves += step.moves
            self._write(chunks)
            self._check_contexts(chunks)
            yield chunks
            self.batcher.computed(step)
            for chunk in chunks:
                if chunk.sequence is not None:
                    self._draw(chunk)
            for sequence in step.silent:
                self._end_silently(sequence)
            self._check_blocks()
        self._check_end()

    def play(self) -> DryRun:
        """All steps at once."""
        for _ in self.steps():
            pass
        return self

    def _see_segments(self, chunks: list[Chunk]) -> None:
        """Those of the chunks, and those that came back from the host and are in none."""
        tails = (sequence.tail for sequence in self.batcher.running.values())
        nodes = self.batcher.tree._segments.values()
        found = (*(chunk.segment for chunk in chunks), *tails, *nodes)
        self.segments.update((id(segment), segment) for segment in found)

    def _draw(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        assert sequence is not None
        index, produced = sequence.index, len(sequence.answer)
        places = range(produced, min(produced + len(chunk.drawing), self.answer_lengths[index]))
        drawn = [answer_token(index, place) for place in places]
        if chunk.draft is not None:
            guesses = chunk.draft.tokens
            right = (place for place, token in enumerate(guesses) if drawn[place:][:1] != [token])
            drawn = drawn[: next(right, len(guesses)) + 1]
            self.accepted_tokens += len(drawn) - 1
        sequence.answer.extend(drawn)
        self.batcher.drew(sequence, drawn)
        assert self.batcher.decoding.produced(sequence) == len(sequence.answer)
        if len(sequence.answer) < self.answer_lengths[index]:
            return
        assert index not in self.answers, f"prompt {index} is answered twice"
        self.answers[index] = sequence.answer
        self.cached_tokens[index] = sequence.cached_tokens
        ended_itself = len(sequence.answer) < self.plan.samplings[index].max_tokens
        self.batcher.finish(sequence, ended_itself=ended_itself)

    def _end_silently(self, sequence: Sequence) -> None:
        """A prompt behind which nothing is drawn is answered when all that is read is computed."""
        index = sequence.index
        assert index not in self.answers, f"prompt {index} is answered twice"
        assert not self.plan.samplings[index].max_tokens
        assert all(part.computed == part.length for part in (*sequence.path, sequence.tail))
        assert len(self.plan.prompts[index]) - 1 == sequence.tail.position + sequence.tail.length
        self.answers[index] = []
        self.cached_tokens[index] = sequence.cached_tokens
        self.batcher.finish(sequence, ended_itself=False)

    def _check_decodes(
        self, chunks: list[Chunk], decoding: list[Sequence], preempted: bool
    ) -> None:
        """Every decode advances unless preempted, and prefill takes only what decodes leave."""
        chunk_of = {id(chunk.segment): chunk for chunk in chunks}
        advanced = 0
        for sequence in decoding:
            chunk = chunk_of.get(id(sequence.tail))
            if sequence in self.batcher.decoding and chunk is not None:
                length = len(sequence.tail.prompt) + len(sequence.answer)
                assert (chunk.start, known_end(chunk)) == (length - 1, length)
                assert chunk.sequence is sequence
                advanced += 1
            else:
                assert preempted, f"prompt {sequence.index} decodes, and stands still"
                assert not sequence.tail.computed
        tokens = sum(known_end(chunk) - chunk.start for chunk in chunks)
        assert tokens <= max(self.step_tokens, advanced), (tokens, advanced)

    def _check_load(self, chunks: list[Chunk], load: StepLoad) -> None:
        """What the step says it asks of the machine is what its chunks add up to, less drafts."""
        decodes = [c for c in chunks if self._is_decode(c)]
        prefills = [c for c in chunks if not self._is_decode(c)]
        above = {id(s): s.length for c in decodes for s in ancestors(c.segment)}
        assert load == StepLoad(
            tokens=sum(known_end(c) - c.start for c in chunks),
            drawn=sum(c.sequence is not None for c in chunks),
            sequences=len(chunks),
            own_keys=sum(known_end(c) for c in decodes),
            shared_keys=sum(above.values()),
            shared_pairs=sum(c.segment.position for c in decodes),
            prefill_tokens=sum(c.end - c.start for c in prefills),
            prefill_pairs=sum(
                c.segment.position + at + 1 for c in prefills for at in range(c.start, c.end)
            ),
            scored=sum(len(c.scoring) for c in chunks),
        )

    def _is_decode(self, chunk: Chunk) -> bool:
        return chunk.sequence is not None and chunk.sequence in self.batcher.decoding

    def _check_chunks(self, chunks: list[Chunk]) -> None:
        """Chunks go on where their segments are, below complete ancestors, into owned blocks."""
        end_of = {id(chunk.segment): chunk.end for chunk in chunks}
        assert len(end_of) == len(chunks), "a segment has two chunks in one step"
        tails = {id(s.tail): s for s in self.batcher.running.values()}
        for chunk in chunks:
            segment = chunk.segment
            assert segment.users > 0
            length = segment.length
            if segment.node < 0:
                length = self.batcher.decoding.length(tails[id(segment)])
            decodes = segment.node < 0 and tails[id(segment)] in self.batcher.decoding
            assert decodes or chunk.start == segment.computed
            assert chunk.start < known_end(chunk) <= length
            assert len(segment.blocks) >= blocks_for(chunk.end)
            for above in ancestors(segment):
                assert end_of.get(id(above), above.computed) == above.length
            ends_tail = segment.node < 0 and known_end(chunk) == length
            if segment.node < 0:
                ends_tail &= self.plan.samplings[tails[id(segment)].index].max_tokens > 0
            self._check_scoring(chunk)
            assert decodes or chunk.draft is None
            assert chunk.sequence is (tails[id(segment)] if ends_tail else None)

    def _check_scoring(self, chunk: Chunk) -> None:
        """What prompts below ask for is scored once, behind the token before it."""
        segment, key = chunk.segment, chunk.segment.node
        own = int(self.plan.tree.order[segment.rank])
        ranks = range(segment.rank, segment.rank + 1)
        if key < 0:
            key = ~own
        else:
            ranks = range(segment.rank, int(self.plan.tree.last[segment.node]))
        asked = set()
        for index in self.plan.tree.order[list(ranks)].tolist():
            sampling = self.plan.samplings[index]
            if sampling.prompt_logprobs is not None:
                last = len(self.plan.prompts[index]) - 1
                asked.update(range(sampling.prompt_logprobs_from - 1, last))
        places = [place for place in range(chunk.start, chunk.end) if place not in chunk.drawing]
        before = self.scored.setdefault(key, set())
        new = {place for place in places if segment.position + place in asked} - before
        assert set(chunk.scoring) == new
        before |= new

    def _check_tree_order(self, chunks: list[Chunk]) -> None:
        """Parents stand before children, and what is below a segment stands side by side."""
        keys = [(chunk.segment.rank, chunk.segment.position) for chunk in chunks]
        assert keys == sorted(set(keys))
        places: dict[int, list[int]] = {}
        for place, chunk in enumerate(chunks):
            for segment in (chunk.segment, *ancestors(chunk.segment)):
                places.setdefault(id(segment), []).append(place)
        for found in places.values():
            assert found == list(range(found[0], found[0] + len(found)))

    def _check_blocks(self) -> None:
        """Every block is free or owned by one segment."""
        ledger = self.batcher.ledger
        ledger.check_integrity()
        owned = [block for segment in self.segments.values() for block in segment.blocks]
        owned += self.reserved
        assert len(owned) == len(set(owned)) == ledger.used
        assert all(0 <= block < ledger.total for block in owned)
        if self.host is not None:
            self.host.check_integrity()

    def _write(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            segment = chunk.segment
            tokens = chunk.token_ids().tolist()
            for at, token in zip(range(chunk.start, chunk.end), tokens, strict=True):
                self.memory[int(segment.slots[at])] = token
            prompt_end = len(self._text(segment)[0]) - segment.position
            computed = max(0, min(chunk.end, prompt_end) - min(chunk.start, prompt_end))
            self.prompt_tokens_computed += computed
            if segment.node >= 0:
                before = self.node_tokens_computed.get(segment.node, 0)
                self.node_tokens_computed[segment.node] = before + computed

    def _check_contexts(self, chunks: list[Chunk]) -> None:
        """What a chunk reads is its prompt and answer from the first token to its own end.

        Of a draft that is so as far as it is right.
        """
        for chunk in chunks:
            prompt, answer = self._text(chunk.segment)
            slots = chunk.segment.slots[: chunk.end].tolist()
            for above in ancestors(chunk.segment):
                assert len(above.slots) == len(above.blocks) * BLOCK_TOKENS
                slots = above.slots[: above.length].tolist() + slots
            context = [self.memory[slot] for slot in slots]
            assert len(context) == chunk.segment.position + chunk.end
            if chunk.draft is not None:
                assert context[-len(chunk.draft.tokens) :] == list(chunk.draft.tokens)
                context = context[: -len(chunk.draft.tokens)]
            assert context == (prompt + answer)[: len(context)]

    def _text(self, segment: Segment) -> tuple[list[int], list[int]]:
        """Prompt and whole answer of the first prompt below the segment."""
        index = int(self.plan.tree.order[segment.rank])
        answer = [answer_token(index, produced) for produced in range(self.answer_lengths[index])]
        return self.plan.prompts[index].tolist(), answer

    def _check_end(self) -> None:
        """Every prompt is answered once and whole, and all memory is free."""
        batcher, counts = self.batcher, self.batcher.counts
        assert sorted(self.answers) == list(range(len(self.plan.prompts)))
        for index, answer in self.answers.items():
            length = self.answer_lengths[index]
            assert answer == [answer_token(index, produced) for produced in range(length)]
        assert not batcher.running
        assert (batcher.decoding.own_keys, batcher.decoding.shared_keys) == (0, 0)
        assert batcher.decoding.shared_pairs == 0
        assert batcher.ledger.used == len(self.reserved)
        assert not any(segment.blocks for segment in self.segments.values())
        assert self.host is None or not self.host.used, "the host holds KV for nobody"
        assert counts.swapped_tokens == sum(len(move.host) for move in self.moves if move.out)
        assert counts.restored_tokens == sum(len(move.host) for move in self.moves if not move.out)
        assert counts.completion_tokens == sum(self.answer_lengths)
        assert counts.accepted_tokens == self.accepted_tokens <= counts.drafted_tokens
        assert counts.computed_prompt_tokens == self.prompt_tokens_computed
        silent = sum(not sampling.max_tokens for sampling in self.plan.samplings)
        read = int(self.plan.prompts.lengths.sum()) - silent  # nothing reads their last tokens
        cached = read - sum(self.cached_tokens.values())
        assert cached == counts.computed_prompt_tokens
        assert batcher.next_step() is None, "a finished plan goes on"
