"""`python -m batchpipe.background.process RUN_DIR COMMAND...`: the process itself.

It holds the room's lock while it lives and leaves how it ended: whoever looks, on whatever machine
that sees the run directory, knows of it without being its parent.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from batchpipe.background.log_lines import last_line
from batchpipe.background.room import ENDED, log_path, room_of
from batchpipe.errors import BatchpipeError, StoppedEarly
from batchpipe.journal.lock import take
from batchpipe.running.stop import Terminated, raising_terminated


def main(arguments: Sequence[str]) -> NoReturn:
    """The command has run, and its exit code and last words are on record."""
    run_dir, *command = arguments
    room = room_of(run_dir)
    try:
        with raising_terminated(), take(room):
            code = _exit_code(command)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there is nothing left to stop
            record = {"code": code, "said": last_line(log_path(run_dir))}
            room.put(ENDED, json.dumps(record).encode())
    except BatchpipeError as error:  # another was faster
        print(f"batchpipe: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(code)


def _exit_code(command: Sequence[str]) -> int:
    try:
        from batchpipe.cli import main as run_command  # slow: the lock is held before

        run_command(command)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except Terminated:
        print("batchpipe: stopped by SIGTERM before the start", file=sys.stderr)
        return StoppedEarly.exit_code
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    main(sys.argv[1:])
