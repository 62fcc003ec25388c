"""`batchpipe report`: the page is written where it was asked for."""

from __future__ import annotations

import os
import posixpath
from dataclasses import asdict, dataclass
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.journal.folder import open_folder
from batchpipe.journal.status import Status, read_run
from batchpipe.report.findings import find
from batchpipe.report.page import render, size
from batchpipe.report.workflow_page import render_workflow
from batchpipe.rows.location import local_path
from batchpipe.workflow.journal.status import WorkflowStatus, is_workflow

PAGE = "report.html"
ENDINGS = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class Reported:
    """Where the page is, and what it is of."""

    report: str
    size_bytes: int
    state: str
    rows: int | None
    finished: int
    failed: int
    damaged: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values, in this order."""
        return asdict(self)

    def __str__(self) -> str:
        damage = [f"{name} {what}" for name, what in self.damaged.items()]
        of = "" if self.rows is None else f" of {self.rows:,}"
        told = f"{self.state}, {self.finished:,}{of} rows finished, {self.failed:,} failed"
        return "\n".join([told, *damage, f"report: {self.report} ({size(self.size_bytes)})"])


def report(run_dir: str, out: str | None = None) -> Reported:
    """The page about the run is written, whole, to ``out`` or into the run directory.

    Raises:
        ConfigError: there is no run, its manifest is damaged, or the page cannot have that name
        OSError: the run cannot be read or the page not written
    """
    folder = open_folder(run_dir)
    place, name = (folder, PAGE) if out is None else _place(out)
    status: Status | WorkflowStatus
    if is_workflow(read_run(folder)):
        page, status = render_workflow(folder)
    else:
        found = find(folder)
        page, status = render(found), found.status
    content = page.encode()
    place.put(name, content)
    return Reported(
        report=out or posixpath.join(folder.name, PAGE),
        size_bytes=len(content),
        state=status.state,
        rows=status.rows,
        finished=status.finished,
        failed=status.failed,
        damaged=status.damaged,
    )


def _place(out: str) -> tuple[Any, str]:
    """The folder that the page goes to, and its name there."""
    if not out.lower().endswith(ENDINGS):
        raise ConfigError(f"cannot write the report to {out}: its name must end in .html")
    path = local_path(out)
    if path is None:
        above, _, name = out.rpartition("/")
        return open_folder(above), name
    parent, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise ConfigError(f"cannot write {out}: the directory {parent} does not exist; make it")
    if os.path.isdir(path):
        raise ConfigError(f"cannot write {out}: it is a directory; name a file")
    return open_folder(parent), name
