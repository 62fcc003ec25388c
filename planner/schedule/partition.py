"""How the KV memory is divided between the two ends of an order (BlendServe, Algorithm 3)."""

from __future__ import annotations

from collections import deque

from batchpipe.planner.schedule.segment import Sequence


class Partition:
    """What memory-bound sequences, from the back, may take, and when.

    Compute-bound sequences from the front are short-lived and always let in; a share of the memory
    is kept free for them: ``M_L = M (rho - rho_R) / (rho_L - rho_R)``.

    Long sequences that begin together also end together: they read little at first and crowd each
    other out at last. So they begin in ``waves``: within each of so many parts of a lifetime only
    ``2 M_R / (waves + 1)`` of end blocks begin, which fills ``M_R`` once all waves are under way.
    """

    def __init__(self, kv_blocks: int, waves: int) -> None:
        self._kv_blocks = kv_blocks
        self._waves = waves
        self._left_blocks = 0  # of running sequences from the front, at their ends
        self._begun: deque[tuple[int, int]] = deque()  # (step, end blocks) of the present wave
        self._begun_blocks = 0

    def limit(
        self, clock: int, lifetime: int, end_blocks: int, density: float, ends: tuple[float, float]
    ) -> int:
        """Blocks that all sequences may have with one more from the back; 0: none begins now.

        Args:
            clock: now, in steps
            lifetime: steps that the sequence will run
            end_blocks: blocks of its tail at its end
            density: of all that is left to do
            ends: density at the front and at the back of the order
        """
        front, back = ends
        share = (density - back) / (front - back) if front > back else 0.0
        left = int(self._kv_blocks * min(1.0, max(0.0, share)))
        while self._begun and self._begun[0][0] + lifetime / self._waves <= clock:
            self._begun_blocks -= self._begun.popleft()[1]
        wave_blocks = 2 * (self._kv_blocks - left) / (self._waves + 1)
        if self._begun and self._begun_blocks + end_blocks > wave_blocks:
            return 0
        return self._kv_blocks - max(0, left - self._left_blocks)

    def admitted(self, sequence: Sequence, clock: int) -> None:
        """The sequence runs from now on."""
        if sequence.left:
            self._left_blocks += sequence.end_blocks
        else:
            self._begun.append((clock, sequence.end_blocks))
            self._begun_blocks += sequence.end_blocks

    def ended(self, sequence: Sequence) -> None:
        """The sequence runs no more."""
        if sequence.left:
            self._left_blocks -= sequence.end_blocks
