"""What the tests of job and result files share."""

from __future__ import annotations

import sys

import pytest
from fsspec import registry

PACKAGES = {"s3fs": ("s3", "s3a"), "adlfs": ("abfs",)}


@pytest.fixture
def no_storage_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if none were installed; fsspec keeps what it has imported before."""
    known = sys.modules["fsspec.registry"]._registry
    for package, protocols in PACKAGES.items():
        monkeypatch.setitem(sys.modules, package, None)
        for protocol in protocols:
            monkeypatch.delitem(known, protocol, raising=False)
    assert not set(PACKAGES["s3fs"]) & set(registry)
