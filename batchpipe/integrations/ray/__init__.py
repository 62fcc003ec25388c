"""Runs on several devices and machines through Ray. Only this room's files import `ray`.

The driver plans, cuts the plan into shards, gives them out and alone writes the journal. Workers
are Ray actors, each with one model in memory: they know prompts and answers, and nothing else.
"""

from __future__ import annotations

import os

# Ray reads these when it is first imported; what the user has set stays. Nothing is reported to
# anybody, and the devices of a worker are what it was given.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _value)
