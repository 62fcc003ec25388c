"""Times single steps of a loaded model: prefill, decodes, shared prefixes, and all of them mixed.

Every step goes the engine's own way, from the token batcher to the drawn tokens, so that what
Python costs is in the figures. Knows nothing of machines or of what is fitted to the figures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from batchpipe.engine.host_kv import host_bytes_per_second
from batchpipe.engine.model import Decoder, bind
from batchpipe.engine.sampling import sample
from batchpipe.engine.token_batch import form
from batchpipe.planner.kv_ledger import KVLedger, blocks_for
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling, TokenIds
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.step import Step
from batchpipe.planner.schedule.token_batcher import TokenBatcher

# All points are measured in rounds, so that a busy spell of the machine meets a few points once and
# not one point in all its repetitions.
ROUNDS = 3
MOST_REPETITIONS = 7  # of a step in a round
REPEATED_SECONDS = 0.06  # a step is repeated up to so long: the noise of short ones is the largest
LINK_BLOCKS = 4096  # of KV that is copied to the host and back, at most
LONGEST_STEP_SECONDS = 4.0  # no point larger than one that took longer is measured
ANSWER_TOKENS = 3  # the token behind the prompt, the one that a timed step draws, and one to spare


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A step to measure: sequences that decode, and prompt chunks beside them."""

    kind: str  # "prefill", "decode", "shared" or "mixed"
    decoding: tuple[int, ...] = ()  # own tokens of each sequence that decodes
    chunks: tuple[int, ...] = ()  # tokens of each prompt chunk
    prefix: int = 0  # tokens above all of them, computed before
    past: int = 0  # tokens below the prefix and before the first chunk, computed before

    @property
    def longest(self) -> int:
        """Positions of its longest sequence."""
        first = self.past + self.chunks[0] if self.chunks else 0
        return self.prefix + max(first, *self.decoding, *self.chunks) + ANSWER_TOKENS

    def within(self, context: int) -> Point:
        """The same with everything shortened alike, where it is longer than the context."""
        share = (context - ANSWER_TOKENS) / (self.longest - ANSWER_TOKENS)
        if share >= 1:
            return self

        def shortened(tokens: int) -> int:
            return max(1, int(tokens * share)) if tokens else 0

        return Point(
            self.kind,
            tuple(map(shortened, self.decoding)),
            tuple(map(shortened, self.chunks)),
            shortened(self.prefix),
            shortened(self.past),
        )

    @property
    def kv_blocks(self) -> int:
        """Blocks that hold all of it."""
        tails = (*self.decoding, *self.chunks)
        own = sum(blocks_for(tail + ANSWER_TOKENS) for tail in tails)
        return own + blocks_for(self.prefix) + blocks_for(self.past) + 1

    @property
    def work(self) -> int:
        """A measure of its size, to go from small to large: rows, and reads of a key in them."""
        pairs = sum(chunk * (self.prefix + self.past + chunk // 2) for chunk in self.chunks)
        pairs += sum(self.prefix + own for own in self.decoding)
        return sum(self.chunks) + len(self.decoding) + pairs // 1000


@dataclass(frozen=True, slots=True)
class Measured:
    """How long a step took: the median of its repetitions, in the fastest of the rounds."""

    kind: str
    load: StepLoad
    seconds: float


def _points() -> Iterator[Point]:
    for tokens in (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096):
        yield Point("prefill", chunks=(tokens,))
    for tokens, past in ((1, 512), (16, 2048), (64, 512), (128, 4096), (256, 1024), (512, 2048)):
        yield Point("prefill", chunks=(tokens,), past=past)
    for tokens, past in ((512, 512), (1024, 1024), (1024, 4096), (2048, 2048)):
        yield Point("prefill", chunks=(tokens,), past=past)
    for count, tokens in ((8, 16), (64, 16), (256, 4), (32, 32), (4, 256), (8, 512)):
        yield Point("prefill", chunks=(tokens,) * count)
    for count, own in ((1, 16), (1, 512), (4, 64), (4, 1024), (8, 256), (16, 16)):
        yield Point("decode", decoding=(own,) * count)
    for count, own in ((16, 512), (16, 4096), (32, 128), (32, 1024), (64, 16), (64, 512)):
        yield Point("decode", decoding=(own,) * count)
    for count, own in ((128, 128), (128, 512), (256, 16), (256, 64), (256, 256)):
        yield Point("decode", decoding=(own,) * count)
    for count, longest in ((16, 2048), (32, 4096), (64, 512), (64, 2048), (128, 512)):
        yield Point("decode", decoding=_ragged(count, longest))
    for prefix, count in ((512, 8), (512, 64), (1024, 2), (1024, 32), (1024, 256), (2048, 8)):
        yield Point("shared", decoding=_ragged(count, 64), prefix=prefix)
    for prefix, count in ((2048, 128), (4096, 4), (4096, 32), (4096, 256)):
        yield Point("shared", decoding=_ragged(count, 64), prefix=prefix)
    for count, own, chunk, past in ((8, 128, 128, 0), (16, 512, 256, 256), (32, 256, 512, 0)):
        yield Point("mixed", decoding=_ragged(count, own), chunks=(chunk,), past=past)
    for count, own, chunk, past in ((64, 256, 1024, 0), (64, 512, 512, 1024), (256, 64, 256, 0)):
        yield Point("mixed", decoding=_ragged(count, own), chunks=(chunk,), past=past)
    for prefix, count, chunks in ((512, 16, (32,) * 8), (1024, 64, (48,) * 16)):
        yield Point("mixed", decoding=_ragged(count, 64), chunks=chunks, prefix=prefix)
    yield Point("mixed", decoding=_ragged(128, 128), chunks=(32,) * 24, prefix=512)


def _ragged(count: int, longest: int) -> tuple[int, ...]:
    """So many lengths up to the longest, as evenly over the doublings as those of real answers."""
    lengths = np.geomspace(min(16, longest), longest, count)
    return tuple(int(length) for length in lengths)


POINTS = tuple(_points())
QUICK_POINTS = tuple(point for point in POINTS[::3] if sum(point.chunks) + point.past <= 1536)


def measure(
    model: Any,  # a transformers PreTrainedModel, as `load_model` gives it
    shape: ModelShape,
    kv_blocks: int,
    points: Sequence[Point] = POINTS,
) -> list[Measured]:
    """The time of every point that fits the KV blocks, small ones first.

    A point that is longer than the model's context is shortened. A large model on a small machine
    is measured at its small points alone: once a step takes longer than `LONGEST_STEP_SECONDS`,
    larger ones are left out.
    """
    short = {point.within(shape.context) for point in points}
    fitting = [p for p in short if p.kv_blocks <= kv_blocks and p.longest <= shape.context]
    fitting.sort(key=lambda point: (point.work, point))
    if not fitting:
        return []
    kv_blocks = max(point.kv_blocks for point in fitting)
    decoder = bind(model, shape, kv_blocks)
    for cache in (decoder.attention.keys, decoder.attention.values):
        cache.normal_()  # what stands before a timed step is not computed
    fastest: dict[Point, Measured] = {}
    for _ in range(ROUNDS):
        for point in fitting if not fastest else list(fastest):
            measured = _measure_point(decoder, point, shape.vocab, kv_blocks)
            before = fastest.get(point)
            if before is None or measured.seconds < before.seconds:
                fastest[point] = measured
            if before is None and measured.seconds > LONGEST_STEP_SECONDS:
                break
    return list(fastest.values())


def measure_link(model: Any, shape: ModelShape, kv_blocks: int) -> float:
    """Bytes of KV in a second that go to host memory, or come back from it."""
    return host_bytes_per_second(bind(model, shape, min(kv_blocks, LINK_BLOCKS)).attention)


def _prompts(point: Point, vocab: int) -> Prompts:
    """The point's prompts: after the prefix no two begin alike, as long as the vocabulary lasts."""
    draws = np.random.default_rng(0)
    tails = [*point.decoding, *point.chunks]
    if point.chunks:
        tails[len(point.decoding)] += point.past

    def some(count: int) -> TokenIds:
        return draws.integers(0, vocab, count, dtype=np.int32)

    prefix = some(point.prefix)
    rows = [
        np.concatenate([prefix, np.asarray([row % vocab], np.int32), some(tokens - 1)])
        for row, tokens in enumerate(tails)
    ]
    return Prompts.pack(rows)


class _Given:
    """A pace that gives every step the prompt tokens that it was told."""

    tokens = 0

    def prefill_tokens(self, decoding: Decoding) -> int:
        return self.tokens

    def density(self) -> None:
        return None

    def passed(self, load: StepLoad) -> None:
        return None

    def answered(self, index: int, produced: int) -> None:
        return None


def _measure_point(decoder: Decoder, point: Point, vocab: int, kv_blocks: int) -> Measured:
    """The point's step, in a batcher that stands right before it."""
    prompts = _prompts(point, vocab)
    samplings = [Sampling(max_tokens=ANSWER_TOKENS, ignore_eos=True)] * len(prompts)
    pace = _Given()
    plan = make_plan(prompts, samplings, order="input")
    batcher = TokenBatcher(plan, KVLedger(kv_blocks), pace)
    computed_before = [point.past]
    if point.decoding:
        computed_before.insert(0, point.prefix + sum(point.decoding))
    else:
        computed_before[0] += point.prefix
    for tokens in filter(None, computed_before):
        pace.tokens = tokens
        _pass_uncomputed(batcher)
    pace.tokens = sum(point.chunks)
    return _timed(decoder, batcher, point.kind)


def _pass_uncomputed(batcher: TokenBatcher) -> None:
    """The next step counts as computed; its keys are whatever the cache holds."""
    step = batcher.next_step()
    assert step is not None, "the point's sequences are answered before it is measured"
    for chunk in step.all_chunks():
        if chunk.sequence is not None:
            chunk.sequence.answer.append(0)
    batcher.computed(step)


def _timed(decoder: Decoder, batcher: TokenBatcher, kind: str) -> Measured:
    """The next step's median time; it is formed and run again and again before it is computed."""
    seconds: list[float] = []
    while True:
        started = time.perf_counter()
        step = _run_next(decoder, batcher)
        seconds.append(time.perf_counter() - started)
        enough = len(seconds) > 1 and sum(seconds) >= REPEATED_SECONDS
        if enough or len(seconds) > MOST_REPETITIONS:
            break
    started = time.perf_counter()
    batcher.computed(step)
    settling = time.perf_counter() - started
    return Measured(kind, step.load, median(seconds[1:]) + settling)  # the first warms up


def _run_next(decoder: Decoder, batcher: TokenBatcher) -> Step:
    """What `Engine.steps` does up to the drawn tokens; the same step again until it is computed."""
    step = batcher.next_step()
    assert step is not None, "nothing is left to measure"
    batch = form(step.all_chunks(), decoder.device)
    logits = decoder.logits(batch)
    if len(batch.sequences):
        sample(logits).tolist()  # waits for the device
    elif decoder.device.type == "cuda":
        torch.cuda.synchronize(decoder.device)
    return step
