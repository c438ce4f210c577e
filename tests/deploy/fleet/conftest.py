"""A fleet of devices behind sshd, empty at first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.conftest import Makers
from tests.deploy.fleet.bench import SSHD, Fleet, content, make_keys

BIG = 3_000_000


@pytest.fixture(scope="session")
def fleet_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The person's key, and the host keys of three devices."""
    if SSHD is None:
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    Path("/run/sshd").mkdir(exist_ok=True)
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return folder


@pytest.fixture
def fleet(makers: Makers, fleet_keys: Path) -> Iterator[Fleet]:
    """A fleet to add devices to; in memory if possible, where syncing costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        fleet = Fleet(Path(folder), makers, fleet_keys)
        try:
            yield fleet
        finally:
            fleet.close()


@pytest.fixture(scope="session")
def big(makers: Makers, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Versions 1 and 2 of a release; its largest file, of `BIG` bytes, is the same in both."""
    folder = tmp_path_factory.mktemp("big")
    wheels = {version: content(folder / str(version), engine=BIG, **{f"new{version}": 9000}) for version in (1, 2)}
    return {version: makers.release(version, wheelhouse=wheels[version]) for version in (1, 2)}
