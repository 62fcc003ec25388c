"""The page about a workflow's run: its steps as a graph, what each did, and what failed."""

from __future__ import annotations

import json
import posixpath
from typing import Any

from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import Manifest
from batchpipe.journal.status import read_run
from batchpipe.journal.summary_file import summary_of
from batchpipe.report.page import filled
from batchpipe.report.workflow_graph import BOX_HEIGHT, BOX_WIDTH, laid_out
from batchpipe.running.work import Work
from batchpipe.workflow.journal.status import WorkflowStatus, describe
from batchpipe.workflow.journal.tallies import StepTally

STATES = {
    "running": "Still running: this page has what was on disk when it was made. Make it again for "
    "more.",
    "stopped": "Stopped before its end. The same command goes on where it was.",
    "finished": "Finished: every row has its result.",
}


def render_workflow(folder: Folder) -> tuple[str, WorkflowStatus]:
    """The page, as text that UTF-8 can hold, and how far the run was.

    Raises:
        ConfigError: there is no run, or its manifest is damaged
        OSError: the run cannot be read
    """
    manifest, status = read_run(folder), describe(folder)
    return filled("workflow.html", _context(folder, manifest, status)), status


def _context(folder: Folder, manifest: Manifest, status: WorkflowStatus) -> dict[str, Any]:
    known = manifest.command["workflow"]
    summary = summary_of(folder, manifest) or {}
    steps = {
        step["name"]: StepTally(**status.steps.get(step["name"], {})) for step in known["steps"]
    }
    return {
        "status": status,
        "name": posixpath.basename(manifest.output.rstrip("/")) or folder.name,
        "model": " · ".join(posixpath.basename(each) for each in known["models"].values()),
        "headline": STATES[status.state],
        "graph": laid_out(known["steps"], status.steps),
        "box_width": BOX_WIDTH,
        "box_height": BOX_HEIGHT,
        "steps": [{**step, "tally": steps[step["name"]]} for step in known["steps"]],
        "total": StepTally(
            **{
                name: sum(getattr(tally, name) for tally in steps.values())
                for name in StepTally.__dataclass_fields__
            }
        ),
        "work": Work.of(dict(manifest.facts)),
        "loads": manifest.facts.get("loads", 0),
        "summary": summary,
        "workers": summary.get("workers") or (),
        "duplicated_tokens": summary.get("duplicated_prompt_tokens", 0),
        "sessions": manifest.sessions,
        "output": manifest.output,
        "parameters": {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in manifest.command["run"].items()
            if value is not None
        },
    }
