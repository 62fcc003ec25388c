"""Holds a changed job against a run, row by row: whose answers would be what they are?

What decides an answer is the model, the prompt's tokens, the sampling parameters, and for a row
that draws at random the run's seed and the row's name. The rest of a row may change.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from batchpipe.errors import ConfigError
from batchpipe.explain.against.change import Change, Reason
from batchpipe.job.asked_rows import NO_SAMPLING, NOTHING, AskedRows, read_rows
from batchpipe.job.fingerprint import differences
from batchpipe.journal.folder import Folder
from batchpipe.journal.row_states import NO_PART, SUCCESS
from batchpipe.journal.status import Look, look_at
from batchpipe.rows.parameters import COLUMNS, check_sampling
from batchpipe.rows.words import shown
from batchpipe.running.work import Work

# Parts of a fingerprint whose effect each row shows by itself; any other decides all answers.
BY_ROW = {
    "rows",
    "input",
    "template",
    "prompt_column",
    "id_column",
    "limit",
    "sampling",
    "seed",
    "on_too_long",
}

NEW = "not in the run"
UNANSWERED = "no answer in the run"
CONTENT = "the row's content changed, and its prompt with it"
PROMPT = "the same content makes another prompt"
DRAW = "drawn at random, and the seed changed"

Flags = npt.NDArray[np.bool_]


def compare(
    folder: Folder, settings: Mapping[str, Any], asked: AskedRows
) -> tuple[Change, Flags]:  # [rows]
    """What the run in the folder leaves to be done for these rows, and which rows that is.

    Raises:
        ConfigError: there is no run, or it kept nothing of its rows
    """
    look = look_at(folder)
    known = look.manifest
    before = read_rows(folder, known.fingerprint)
    if before is None:
        raise ConfigError(
            f"{folder.name} does not tell what each of its rows asked: rows.parquet is missing or "
            f"damaged; `run` writes it when it begins, and nothing else can be compared"
        )
    same = {name: known.fingerprint.get(name) for name in ("rows", "input")}
    changed = differences(known.fingerprint, {**settings, **same})
    whole = differences(*(_for_all(each) for each in (known.fingerprint, settings)))
    answered = _answered(look)
    comparison = _Comparison(look, before, asked, settings)
    reasons, matched = comparison.reasons("; ".join(whole))
    elsewhere = np.zeros(len(asked), dtype=np.bool_)
    if not whole:
        elsewhere = comparison.answered_elsewhere() & (reasons != "") & (asked.prompt != NOTHING)
        reasons[elsewhere] = ""
    can_run = asked.prompt != NOTHING
    redo = (reasons != "") & can_run
    return Change(
        run_dir=folder.name,
        run_rows=len(before),
        run_answered=int(answered.sum()),
        run_seconds=round(Work.of(dict(known.facts)).run_seconds, 3),
        rows=len(asked),
        settings=tuple(changed),
        valid=int((can_run & ~redo & ~elsewhere).sum()),
        valid_elsewhere=int(elsewhere.sum()),
        redo=int(redo.sum()),
        redo_ranges=_ranges(redo),
        reasons=_counted(reasons, redo),
        cannot_run=int((~can_run).sum()),
        gone=len(before) - len(np.unique(matched[matched >= 0])),
    ), redo


class _Comparison:
    """A job's rows beside those of a run."""

    def __init__(
        self,
        look: Look,
        before: AskedRows,
        now: AskedRows,
        settings: Mapping[str, Any],
    ) -> None:
        known = look.manifest
        self._before, self._now, self._answered = before, now, _answered(look)
        self._repair = _repairs(look)
        self._overrides = [{}, *(_parameters(repair.overrides) for repair in known.repairs)]
        self._same_seed = known.fingerprint.get("seed") == settings["seed"]
        self._parsed_before = [json.loads(each) for each in before.samplings]
        self._parsed_now = [json.loads(each) for each in now.samplings]

    def reasons(self, whole: str) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int64]]:
        """Why each row's own answer is not valid, "" where it is; and the run's row of its name.

        Returns:
            reasons  # [rows]
            rows of the run, -1 for none  # [rows]
        """
        before, now = self._before, self._now
        matched = _places(before.request_id, now.request_id)
        found = matched >= 0
        at = np.where(found, matched, 0) if len(before) else np.zeros(len(now), dtype=np.int64)
        reasons = np.full(len(now), "", dtype=object)
        if not len(before):
            reasons[:] = NEW
            return reasons, matched
        for row, why in self._other_parameters(at).items():
            reasons[row] = why
        other_prompt = before.prompt[at] != now.prompt
        same_content = before.content[at] == now.content
        reasons[other_prompt & same_content] = PROMPT
        reasons[other_prompt & ~same_content] = CONTENT
        reasons[~self._answered[at]] = UNANSWERED
        reasons[~found] = NEW
        if whole:
            reasons[:] = whole
        return reasons, matched

    def _other_parameters(self, at: npt.NDArray[np.int64]) -> dict[int, str]:
        """The rows that are sampled otherwise than the run's rows ``at``, with how."""
        pairs = np.stack([self._before.sampling[at], self._now.sampling, self._repair[at]], axis=1)
        kinds, kind_of = np.unique(pairs, axis=0, return_inverse=True)
        phrases = [self._difference(*kind) for kind in kinds.tolist()]
        return {
            row: phrases[kind]
            for row, kind in enumerate(kind_of.reshape(-1).tolist())
            if phrases[kind]
        }

    def _difference(self, old: int, new: int, repair: int) -> str:
        if NO_SAMPLING in (old, new):
            return ""  # told otherwise: it cannot run, or could not
        was, now = self._parsed_before[old], self._parsed_now[new]
        if was == now or {**was, **self._overrides[repair]} == now:
            return "" if self._same_seed or _draws_alike(now) else DRAW
        names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
        told = (f"{n} was {shown(was.get(n))} and is {shown(now.get(n))}" for n in names)
        return "; ".join(told)

    def answered_elsewhere(self) -> Flags:
        """Rows with a prompt and parameters that some answered row of the run had too.

        A row that draws by its own name has no such other row.
        """
        before, now = self._before, self._now
        codes = {text: code for code, text in enumerate(before.samplings)}
        alike = np.array([codes.get(text, NO_SAMPLING) for text in now.samplings], dtype=np.int64)
        fixed = np.array([_draws_alike(each) for each in self._parsed_now], dtype=np.bool_)
        if not len(alike) or not len(before):
            return np.zeros(len(now), dtype=np.bool_)
        sampling = np.where(now.sampling >= 0, alike[now.sampling], NO_SAMPLING)
        usable = self._answered & (self._repair == 0)
        asked_before = _pairs(before.prompt[usable], before.sampling[usable])
        there = np.isin(_pairs(now.prompt, sampling), asked_before)
        return there & (sampling >= 0) & fixed[now.sampling]


def _draws_alike(sampling: Mapping[str, Any]) -> bool:
    """True where neither the run's seed nor the row's name decides the answer."""
    return sampling.get("temperature") == 0 or sampling.get("seed") is not None


def _for_all(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that decide the answers of all rows."""
    return {name: part for name, part in fingerprint.items() if name not in BY_ROW}


def _answered(look: Look) -> Flags:
    states = look.recovered.states
    answered: Flags = (states.winner != NO_PART) & (states.status == SUCCESS)
    return answered


def _repairs(look: Look) -> npt.NDArray[np.int64]:  # [rows]
    """The repair that each row's answer is from, 0 for none."""
    winner = look.recovered.states.winner
    repairs = np.zeros(1 + max([0, *(part.number for part in look.manifest.parts)]), dtype=np.int64)
    for part in look.manifest.parts:
        repairs[part.number] = part.repair
    return np.where(winner == NO_PART, 0, repairs[winner])


def _parameters(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a retry set, in the names and forms that rows are compared in."""
    given = {COLUMNS[name]: value for name, value in overrides.items()}
    sampling = json.loads(json.dumps(asdict(check_sampling(**given))))
    return {name: sampling[name] for name in given}


def _places(known: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> Any:
    """Where each wanted hash stands among the known ones, -1 where it does not."""
    if not len(known):
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    return np.where(known[order][at] == wanted, order[at], -1)


def _pairs(prompt: npt.NDArray[np.uint64], sampling: Any) -> npt.NDArray[np.uint64]:
    """One number for both."""
    mixed = prompt ^ (sampling.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    pairs: npt.NDArray[np.uint64] = mixed
    return pairs


def _ranges(flags: Flags) -> tuple[tuple[int, int], ...]:
    """The runs of True, half-open."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _counted(reasons: npt.NDArray[np.object_], redo: Flags) -> tuple[Reason, ...]:
    rows = np.flatnonzero(redo).tolist()
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(reasons[row], row)
    counts = Counter(reasons[row] for row in rows)
    return tuple(Reason(why, count, first[why]) for why, count in counts.most_common())
