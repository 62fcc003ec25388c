"""How long prompts keep a worker busy, by its machine's profile and the answers so far."""

from __future__ import annotations

from collections.abc import Mapping

from batchpipe.planner.query.cost import ModelHost, MovingAverage
from batchpipe.planner.query.estimate import OUTPUT_TOKENS
from batchpipe.planner.shards.beginnings import names_of
from batchpipe.planner.shards.line import RoutedPrompt
from batchpipe.running.live import Request


class WorkOfPrompts:
    """Each prompt with its modelled seconds; answers of a group teach how long its next ones are.

    Args:
        hosts: the models, each on the machine of one worker
    """

    def __init__(self, hosts: Mapping[str, ModelHost]) -> None:
        self._hosts = hosts
        self._answer_tokens: dict[int, MovingAverage] = {}  # by group

    def routed(self, model: str, request: Request) -> RoutedPrompt:
        """The prompt as the router has it."""
        host, prompt_tokens = self._hosts[model], len(request.token_ids)
        cost, most = host.cost, request.sampling.max_tokens
        expected = min(float(most), OUTPUT_TOKENS)
        answers = self._answer_tokens.setdefault(request.group, MovingAverage(expected))
        answer = min(float(most), answers.mean)
        token_seconds = cost.token_seconds + prompt_tokens / 2 * cost.pair_seconds
        # A step reads weights and has fixed costs, spread over the keys that its memory holds.
        step_seconds = cost.fixed_seconds + cost.weights_seconds(1)
        key_seconds = cost.key_seconds + step_seconds / host.kv_tokens
        drawing = answer * (prompt_tokens + answer / 2) * key_seconds
        return RoutedPrompt(
            request.ticket,
            model,
            names_of(model, request.token_ids),
            seconds=prompt_tokens * token_seconds + drawing,
            token_seconds=token_seconds,
            follows=request.follows,
            feeds=request.feeds,
        )

    def answered(self, group: int, tokens: int) -> None:
        """An answer of this group has so many tokens."""
        self._answer_tokens[group].add(float(tokens))
