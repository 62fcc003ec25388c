"""Lengths of finished answers, kept from run to run: one small file for each model and template.

They only steer the order of work, so nothing that is wrong with the file stops a run. Lengths and
digests are kept, never text. Of two runs that end at the same moment, one may be forgotten.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from batchpipe.job.profiles import state_dir
from batchpipe.rows.atomic import written_whole

KEPT_LENGTHS = 1000  # of each group, the last ones: as many as the planner looks at
KEPT_GROUPS = 1000  # of each file, the last ones: 4 MB at most
LONGEST_TOKENS = 1 << 31  # no answer is longer, so a number from here on is damage
NAME_BYTES = 16

# No home folder is a RuntimeError, a file that is no JSON or not as written here a ValueError.
WRONG = (OSError, ValueError, RuntimeError)


def load_history(model: str, template: str | None) -> dict[bytes, list[int]]:
    """Finished lengths by group key, oldest first; empty where none are kept or can be read."""
    try:
        return _read(_path(model, template))
    except FileNotFoundError:
        return {}
    except WRONG as error:
        print(f"Answer lengths of earlier runs are not used: {error}", file=sys.stderr)
        return {}


def save_history(model: str, template: str | None, lengths: Mapping[bytes, Sequence[int]]) -> None:
    """The lengths stand behind those kept before; the oldest are gone where there are too many."""
    if not any(map(len, lengths.values())):
        return
    try:
        path = _path(model, template)
        path.parent.mkdir(parents=True, exist_ok=True)
        merged = _merged(_read_if_whole(path), lengths)
        text = json.dumps({key.hex(): each for key, each in merged.items()}, separators=(",", ":"))
        with written_whole(str(path)) as stream:
            stream.write(text.encode())
    except WRONG as error:
        print(f"Answer lengths are not kept for later runs: {error}", file=sys.stderr)


def _path(model: str, template: str | None) -> Path:
    folder = Path(model)
    name = str(folder.resolve()) if folder.is_dir() else model
    named = json.dumps([name, template]).encode()
    digest = blake2b(named, digest_size=NAME_BYTES).hexdigest()
    return state_dir() / "lengths" / f"{digest}.json"


def _read(path: Path) -> dict[bytes, list[int]]:
    """What the file holds.

    Raises:
        ValueError: the file is damaged
        OSError: it cannot be read
    """
    try:
        kept = json.loads(path.read_bytes())
        if not isinstance(kept, dict) or not all(map(_are_lengths, kept.values())):
            raise ValueError("it holds something other than lists of lengths by group")
        return {bytes.fromhex(key): each for key, each in kept.items()}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def _are_lengths(each: object) -> bool:
    return isinstance(each, list) and all(
        type(length) is int and 0 <= length < LONGEST_TOKENS for length in each
    )


def _read_if_whole(path: Path) -> dict[bytes, list[int]]:
    """A damaged file counts as none: it is written anew, and loading it has said so."""
    try:
        return _read(path)
    except (FileNotFoundError, ValueError):
        return {}


def _merged(
    kept: dict[bytes, list[int]], lengths: Mapping[bytes, Sequence[int]]
) -> dict[bytes, list[int]]:
    """Groups of this run come last, those with the most answers at the very end."""
    merged = dict(kept)
    for key in sorted(lengths, key=lambda key: len(lengths[key])):
        if len(lengths[key]):
            before = merged.pop(key, [])
            merged[key] = [*before, *map(int, lengths[key])][-KEPT_LENGTHS:]
    return dict(list(merged.items())[-KEPT_GROUPS:])
