"""The kernels become machine code: the interpreter takes what the compiler refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's: pip install 'batchpipe[test]'")

SHARED_BYTES = {90: 227 * 1024, 80: 99 * 1024}  # 99 KB: what sm_86 and sm_89 have of sm_80's 163


@pytest.mark.parametrize(("architecture", "head_dim"), [(90, 128), (80, 80)])
def test_kernels_compile_and_fit_in_shared_memory(architecture: int, head_dim: int) -> None:
    script = Path(__file__).with_name("compile_kernels.py")
    ran = subprocess.run(
        [sys.executable, script, str(architecture), str(head_dim)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout)
    assert set(found) == {"prefill", "single", "split", "merge", "store"}
    assert max(found.values()) <= SHARED_BYTES[architecture]
