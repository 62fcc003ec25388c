"""Which prompts share a beginning: what a careful user of an engine works out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

WORTH_SHARING_TOKENS = 32  # a KV block: engines share whole blocks alone


def common_tokens(left: list[int], right: list[int]) -> int:
    """How many tokens both begin with."""
    most = min(len(left), len(right))
    if left[:most] == right[:most]:
        return most
    low, high = 0, most  # left[:low] equals right[:low], left[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if left[:middle] == right[:middle]:
            low = middle
        else:
            high = middle
    return low


def longest_first(prompts: Sequence[list[int]]) -> list[int]:
    """Rows so that equal beginnings are neighbours, an extension before what it extends."""
    return sorted(range(len(prompts)), key=lambda row: prompts[row], reverse=True)


def leaders(prompts: Sequence[list[int]], order: Sequence[int]) -> list[int | None]:
    """For each place of the order, the earlier place whose KV it should wait for, if any.

    A leader computes what its followers share. Of all earlier places that share nearly as much as
    the best one (less a block), it is the first, so that followers wait for few leaders.
    """
    waits: list[int | None] = []
    path: list[tuple[int, int]] = []  # (place, tokens that places from here on share with it)
    for place, row in enumerate(order):
        shared = common_tokens(prompts[row], prompts[order[place - 1]]) if place else 0
        path = [(before, min(common, shared)) for before, common in path]
        while len(path) > 1 and path[-1][1] - path[-2][1] < WORTH_SHARING_TOKENS:
            path.pop()
        best = path[-1] if path else (0, 0)
        waits.append(best[0] if best[1] >= WORTH_SHARING_TOKENS else None)
        path.append((place, len(prompts[row])))
    return waits


def families(
    prompts: Sequence[list[int]], order: Sequence[int], most_rows: int
) -> list[tuple[list[int], int]]:
    """Runs of the order, with the tokens that all prompts of a run begin with.

    A run ends where the common beginning would lose more than half of its tokens.
    """
    shared = [common_tokens(prompts[a], prompts[b]) for a, b in pairwise(order)]
    runs: list[tuple[list[int], int]] = []
    for place, row in enumerate(order):
        if place and len(runs[-1][0]) < most_rows:
            rows, common = runs[-1]
            here = shared[place - 1]
            after = shared[place] if place < len(shared) else 0
            rival = max(after, common if len(rows) > 1 else 0)
            if rival < 2 * WORTH_SHARING_TOKENS or 2 * here >= rival:
                runs[-1] = ([*rows, row], min(common, here))
                continue
        runs.append(([row], len(prompts[row])))
    return runs
