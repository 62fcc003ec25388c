"""Every error that batchpipe raises on purpose.

    BatchpipeError            exit 1   the run failed
    ├── ConfigError           exit 2   a wrong option, path, column or model, found before any work
    ├── UnsupportedModelError exit 2   a model that this engine cannot serve, named with the reason
    └── StoppedEarly          exit 75  stopped, and the same command goes on from here
        ├── OutOfMemory       exit 75  the same, where memory lacks room for a single token
        ├── DeviceLost        exit 75  the same, where the device failed for good
        └── Interrupted       exit 130 the same, by Ctrl-C

A full disk exits 75 as well: once there is room, the same command goes on. Any other ``OSError``
exits 1.

A bad row is none of these: it becomes a result row with ``status = error`` and a sentence.
"""

GOES_ON = "what is finished is on disk, and the same command goes on from there"


class BatchpipeError(Exception):
    """A run failed; the message is one clear sentence for the user."""

    exit_code = 1


class ConfigError(BatchpipeError):
    """A setting is wrong; the message names the value and the fix."""

    exit_code = 2


class UnsupportedModelError(ConfigError):
    """The model cannot be served; the message names it and says why."""


class StoppedEarly(BatchpipeError):
    """The run stopped before its end and can be resumed by the same command."""

    exit_code = 75


class OutOfMemory(StoppedEarly):
    """Not even a step of one token fits into memory; the message says what to lower."""


class DeviceLost(StoppedEarly):
    """The device computes nothing more for this process; a new one goes on from the disk."""


class Interrupted(StoppedEarly):
    """The user stopped the run with Ctrl-C; it can be resumed by the same command."""

    exit_code = 130
