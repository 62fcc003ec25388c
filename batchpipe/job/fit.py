"""What becomes of prompts that do not fit the model: cut, given shorter answers, or set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batchpipe.planner.request import Prompts, Sampling

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """The prompts that fit with their answers, and a sentence for every other."""

    kept: npt.NDArray[np.int64]  # places in what was asked, rising  # [prompts]
    prompts: Prompts  # [prompts]
    samplings: tuple[Sampling, ...]  # [prompts]
    faults: dict[int, str]  # place -> why it cannot run
    skipped: frozenset[int]  # the faults that --on-too-long skip asked for


def fit(
    prompts: Prompts,
    samplings: Sequence[Sampling],
    *,
    context: int,  # tokens of prompt and answer together
    vocab: int,
    on_too_long: str,  # one of `ON_TOO_LONG`
) -> Fitted:
    """Token ids below ``vocab``, and each prompt with its answer within ``context`` tokens."""
    lengths = prompts.lengths
    limits = np.fromiter((each.max_tokens for each in samplings), np.int64, len(prompts))
    unknown = _highest_tokens(prompts, vocab) >= vocab
    endless = limits >= context
    too_long = lengths + (limits > 0) > context
    beyond = _most_asked(samplings) > vocab
    bad = unknown | endless | beyond
    starts = prompts.starts
    if on_too_long == "truncate-left":
        cut = np.flatnonzero(too_long & ~bad)
        starts = starts.copy()
        starts[cut] = prompts.ends[cut] - (context - limits[cut])
    else:
        bad |= too_long
    faults: dict[int, str] = {}
    skipped = []
    for place in np.flatnonzero(bad).tolist():
        if unknown[place]:
            token = int(prompts[place].max())
            faults[place] = f"token id {token} is not below the model's vocabulary size {vocab}"
        elif beyond[place]:
            faults[place] = (
                f"logprobs or prompt_logprobs asks for more tokens than the model's vocabulary of "
                f"{vocab} has"
            )
        elif endless[place]:
            faults[place] = (
                f"max_tokens is {limits[place]}, and the model's context of {context} tokens "
                f"must hold prompt and answer"
            )
        else:
            skipped += [place] if on_too_long == "skip" else []
            faults[place] = (
                f"prompt has {lengths[place]} tokens and the model's context is {context}, "
                f"answer included; shorten it, or use --on-too-long truncate-left"
            )
    kept = np.flatnonzero(~bad)
    fitting = Prompts(prompts.token_ids, starts[kept], prompts.ends[kept])
    chosen = [samplings[place] for place in kept.tolist()]
    shortened = _shortened(chosen, limits[kept], context - fitting.lengths)
    return Fitted(kept, fitting, shortened, faults, frozenset(skipped))


def _most_asked(samplings: Sequence[Sampling]) -> npt.NDArray[np.int64]:  # [prompts]
    """The likeliest tokens that each asks for."""
    asked = (max(each.logprobs or 0, each.prompt_logprobs or 0) for each in samplings)
    return np.fromiter(asked, np.int64, len(samplings))


def _highest_tokens(prompts: Prompts, vocab: int) -> npt.NDArray[np.int32]:  # [prompts]
    """The highest token id of each prompt, 0 for all where none is as high as ``vocab``."""
    if not len(prompts) or prompts.token_ids.max() < vocab:
        return np.zeros(len(prompts), dtype=np.int32)
    return np.fromiter((ids.max() for ids in prompts), np.int32, len(prompts))


def _shortened(
    samplings: list[Sampling], limits: npt.NDArray[np.int64], room: npt.NDArray[np.int64]
) -> tuple[Sampling, ...]:
    """Answers that end where the context does; equal ones of equal objects are one object."""
    made: dict[tuple[int, int], Sampling] = {}
    chosen = samplings.copy()
    for place in np.flatnonzero(limits > room).tolist():
        sampling, most = samplings[place], int(room[place])
        key = (id(sampling), most)  # ids, for a Sampling's hash takes a microsecond
        if key not in made:
            made[key] = replace(sampling, max_tokens=most)
        chosen[place] = made[key]
    return tuple(chosen)
