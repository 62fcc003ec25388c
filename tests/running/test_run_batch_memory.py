"""A batch of 100,000 lines is streamed: what a run holds of a line is far less than its text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from batch_lines import chat, parsed

from batchpipe.demo.prompt import MODEL_DIR

LINES = 100_000
TEXT_BYTES = 2_000
JOBS = Path(__file__).parents[2] / "jobs" / "bench"

# The model's forward passes are a stub's: each answer is a token at random.
STUBBED = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(JOBS)!r})
from stub import use_stub
use_stub(Path("figures.json"))
from batchpipe.cli import commands
try:
    commands.main(sys.argv[1:], standalone_mode=False)
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def peak_kilobytes(folder: Path, lines: int) -> int:
    """What a run of so many lines takes at most."""
    with open(folder / "in.jsonl", "w") as stream:
        for row in range(lines):
            line = chat(f"id-{row}", f"Please {row}", max_tokens=1, user="x" * TEXT_BYTES)
            stream.write(json.dumps(line) + "\n")
    command = ["run-batch", "-i", "in.jsonl", "-o", "out.jsonl", "--model", str(MODEL_DIR)]
    limits = ["--kv-memory", "1GB", "--step-tokens", "8192", "--overwrite"]
    ran = subprocess.run(
        [sys.executable, "-c", STUBBED, *command, *limits],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stderr.splitlines()[-1])


def test_memory_does_not_grow_as_the_text_of_a_batch_does(tmp_path: Path) -> None:
    few = peak_kilobytes(tmp_path, LINES // 20)
    many = peak_kilobytes(tmp_path, LINES)
    assert many - few < LINES * TEXT_BYTES / 1024 / 2, f"{few:,} kB and {many:,} kB"
    with open(tmp_path / "out.jsonl") as stream:
        ids = []
        for place, line in enumerate(stream):
            answer = json.loads(line)
            ids.append(answer["custom_id"])
            assert place % 1000 or parsed(answer) is not None
    assert ids == [f"id-{row}" for row in range(LINES)]
