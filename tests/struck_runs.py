"""Runs on workers that are struck while they are under way, and a model on which workers die."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The command, whose steps' outcomes go to disk at once: see `harness.IMPATIENT`.
IMPATIENT_FLOW = """
import sys
from batchpipe.workflow.journal import journal
journal.FLUSH_SECONDS = 0.0
from batchpipe.cli import main
main(sys.argv[1:])
"""

# Stands for a prompt on which a driver or a kernel crashes.
DEADLY = """
import os, signal
from transformers import LlamaForCausalLM

class DeadlyLlama(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model.embed_tokens.register_forward_pre_hook(self.read)

    def read(self, module, given):
        if (given[0] == self.config.deadly_token).any():
            os.kill(os.getpid(), signal.SIGKILL)
"""


def on(cluster: Any, workers: int) -> tuple[object, ...]:
    """The options that run on so many workers of the cluster."""
    return ("--workers", workers, "--ray-address", cluster.address)


def wait_until(happened: Callable[[], object]) -> None:
    """It has happened."""
    while not happened():
        time.sleep(0.02)


def parts_of(out: Path) -> list[Path]:
    """What the run that writes to OUT has on disk."""
    return list((Path(f"{out}.run") / "parts").glob("*"))


def while_running(out: Path, strike: Callable[[], None]) -> threading.Thread:
    """The strike comes as soon as the run that writes to OUT has a result on disk."""

    def wait_and_strike() -> None:
        wait_until(lambda: parts_of(out))
        strike()

    thread = threading.Thread(target=wait_and_strike)
    thread.start()
    return thread


def deadly_model(model: Path, folder: Path) -> Path:
    """A copy of the Llama in the folder, which kills its process where a prompt says ``z``."""
    from transformers import AutoTokenizer

    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    [deadly] = AutoTokenizer.from_pretrained(folder).encode("z", add_special_tokens=False)
    config |= {"auto_map": {"AutoModelForCausalLM": "deadly.DeadlyLlama"}, "deadly_token": deadly}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "deadly.py").write_text(DEADLY)
    return folder
