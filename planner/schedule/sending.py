"""In which order a server meets the prompts, so that its own prefix cache serves each group.

A server keeps what it has computed, but two requests that reach it side by side may both compute
the prefix that they share. So the first prompt below a prefix leads: the others are sent once it is
answered, and until then prompts of other prefixes go ahead.
"""

from __future__ import annotations

from heapq import heappop, heappush

from batchpipe.planner.plan import Plan

LEADER_TOKENS = 64  # a shorter common prefix is computed twice sooner than it is waited for
WITHOUT_LEADERS = ("input",)  # orders that do not ask for groups
PARKED = 1024  # prompts that wait for their leaders at most: what goes ahead stays near its place


class Sending:
    """The prompts of a plan, in its order as far as leaders let them.

    With one prompt under way at a time that is the plan's very order.
    """

    def __init__(self, plan: Plan) -> None:
        assert not plan.order.from_both_ends, f"{plan.policy} needs a scheduler of our own"
        self._plan = plan
        self._order: list[int] = plan.order.prompts.tolist()
        self._next_place = 0
        self._ready: list[int] = []  # heap of places whose leader is answered
        self._parked: dict[int, list[int]] = {}  # leader -> places that wait for it
        self._parked_count = 0
        self._with_leaders = plan.order_name not in WITHOUT_LEADERS
        self._leader: dict[int, int] = {}  # node that is being computed -> its leader
        self._led: dict[int, list[int]] = {}  # leader under way -> its nodes
        self._held: set[int] = set()  # nodes that the server has seen
        self._node_tokens: list[int] = (plan.tree.end - plan.tree.start).tolist()

    def next(self) -> int | None:
        """The prompt to send now, from here on under way; None while all others wait."""
        while (place := self._next_candidate()) is not None:
            index = self._order[place]
            path = self._path(index)
            leader = self._awaited(path)
            if leader is None:
                self._led[index] = new = [
                    node for node in path if node not in self._held and node not in self._leader
                ]
                self._leader.update(dict.fromkeys(new, index))
                return index
            self._parked.setdefault(leader, []).append(place)
            self._parked_count += 1
        return None

    def answered(self, index: int, *, computed: bool) -> None:
        """The prompt is under way no more; ``computed`` where the server has read all of it."""
        for node in self._led.pop(index):
            del self._leader[node]
            if computed:
                self._held.add(node)
        released = self._parked.pop(index, ())
        self._parked_count -= len(released)
        for place in released:
            heappush(self._ready, place)

    def _next_candidate(self) -> int | None:
        if self._ready:
            return heappop(self._ready)
        if self._next_place == len(self._order) or self._parked_count >= PARKED:
            return None
        self._next_place += 1
        return self._next_place - 1

    def _path(self, index: int) -> list[int]:
        if not self._with_leaders:
            return []
        return self._plan.tree.path(int(self._plan.rank_of[index]))

    def _awaited(self, path: list[int]) -> int | None:
        """The leader that is computing enough of the path to be waited for."""
        tokens, leader = 0, None
        for node in path:
            if node in self._leader:
                leader = self._leader[node]
                tokens += self._node_tokens[node]
        return leader if tokens >= LEADER_TOKENS else None
