"""How long will the answers be? What is known exactly is used exactly, the rest is learnt."""

from __future__ import annotations

from bisect import bisect_right, insort

FIRST_GUESS_TOKENS = 128  # before any answer is finished
RECENT_ANSWERS = 1000  # as many finished lengths are remembered (Past-Future's window)
GUESS_QUANTILE = 0.9  # a high quantile: a wrong guess costs a preemption, a careful one only room


class OutputLengths:
    """The lengths of finished answers, and from them the length of the next.

    Past-Future (LightLLM): an answer that already has ``produced`` tokens is compared only with
    finished answers that became longer than that.
    """

    def __init__(self) -> None:
        self._recent: list[int] = []  # in order of arrival
        self._sorted: list[int] = []

    def add(self, length: int) -> None:
        """One more answer ended of itself with ``length`` tokens."""
        self._recent.append(length)
        insort(self._sorted, length)
        if len(self._recent) > RECENT_ANSWERS:
            del self._sorted[bisect_right(self._sorted, self._recent.pop(0)) - 1]

    def remaining(self, produced: int, max_tokens: int, exact: bool) -> int:
        """Tokens still expected, at least 1; ``exact`` where nothing but the limit ends it."""
        limit = max_tokens - produced
        if exact or limit <= 1:
            return max(1, limit)
        longer = bisect_right(self._sorted, produced)
        count = len(self._sorted) - longer
        if count:
            likely = self._sorted[longer + int(GUESS_QUANTILE * (count - 1))] - produced
        else:
            likely = max(FIRST_GUESS_TOKENS, produced // 2)
        return max(1, min(limit, likely))
