"""A rank that is killed by an order: ``python -m dying_rank DESCRIPTOR``, DIES_AT in its place."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection

from batchpipe.engine.ranks.orders import Done, Told
from batchpipe.engine.ranks.rank import Rank, follow


class DyingRank(Rank):
    """As any other, up to the first order of the kind that DIES_AT names."""

    def do(self, told: Told) -> Done | None:
        if type(told.order).__name__ == os.environ["DIES_AT"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().do(told)


if __name__ == "__main__":
    follow(Connection(int(sys.argv[1])), DyingRank(int(os.environ["RANK"])))
