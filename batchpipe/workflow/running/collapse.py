"""Equal questions are asked once: while one is under way, and as long as its answer is at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from batchpipe.rows.json_text import to_json

Asker = TypeVar("Asker")

MOST_BYTES = 256 << 20


def digest_of(*parts: object) -> bytes:
    """Equal for equal questions: of bytes as they are, of all else as JSON has it."""
    digest = blake2b(digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else to_json(part).encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()


class Collapse(Generic[Asker]):
    """Who asks what, who waits for the same answer, and the latest answers up to so many bytes."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._known: OrderedDict[bytes, tuple[Mapping[str, Any], int]] = OrderedDict()
        self._waiting: dict[bytes, list[Asker]] = {}  # question under way -> who else asked it

    def known(self, digest: bytes) -> Mapping[str, Any] | None:
        """The values that answer this question, where they are still at hand."""
        found = self._known.get(digest)
        if found is None:
            return None
        self._known.move_to_end(digest)
        return found[0]

    def keep(self, digest: bytes, values: Mapping[str, Any], size_bytes: int) -> None:
        """The values answer this question; the answers that were needed longest ago make room."""
        if digest in self._known:
            return
        self._known[digest] = (values, size_bytes)
        self._held_bytes += size_bytes
        while self._held_bytes > self._most_bytes:
            _, (_, gone_bytes) = self._known.popitem(last=False)
            self._held_bytes -= gone_bytes

    def joins(self, digest: bytes, asker: Asker) -> bool:
        """True where somebody has asked this already, and the asker waits with them.

        Else it is the asker's to ask, until `ended`.
        """
        if digest in self._waiting:
            self._waiting[digest].append(asker)
            return True
        self._waiting[digest] = []
        return False

    def ended(self, digest: bytes) -> list[Asker]:
        """Nobody asks this any more; returns who waited for it."""
        return self._waiting.pop(digest)
