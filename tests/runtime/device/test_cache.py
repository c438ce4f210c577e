"""Engines are sealed: what was not made by this device is never used."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg.runtime.engine.cache import SealedFolder, UnusableError
from edgeseg.runtime.errors import BackendError

FACTS = {"TensorRT": "tensorrt 10.3.0", "GPU": "Orin (8.7)"}


@pytest.fixture
def folder(tmp_path: Path) -> SealedFolder:
    return SealedFolder(tmp_path / "engines")


def test_what_was_saved_is_loaded(folder: SealedFolder) -> None:
    folder.save("a.plan", FACTS, b"plan")
    assert folder.load("a.plan", FACTS) == b"plan"
    assert SealedFolder(folder.folder).load("a.plan", FACTS) == b"plan"


def test_the_key_is_for_this_user_alone(folder: SealedFolder) -> None:
    folder.save("a.plan", FACTS, b"plan")
    assert stat.S_IMODE((folder.folder / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.folder.iterdir()) == ["a.plan", "key"]


def test_an_absent_file_is_named(folder: SealedFolder) -> None:
    with pytest.raises(UnusableError, match=r"there is no a\.plan yet"):
        folder.load("a.plan", FACTS)


@pytest.mark.parametrize(("fact", "value"), [("TensorRT", "tensorrt 10.13.3"), ("GPU", "Thor (11.0)")])
def test_another_machines_plan_is_named(folder: SealedFolder, fact: str, value: str) -> None:
    folder.save("a.plan", FACTS, b"plan")
    with pytest.raises(UnusableError, match=f"was made for {fact} .*, this is"):
        folder.load("a.plan", {**FACTS, fact: value})


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_can_change(folder: SealedFolder, at: int, bit: int) -> None:
    folder.save("a.plan", FACTS, b"plan" * 20)
    path = folder.folder / "a.plan"
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(UnusableError):
        folder.load("a.plan", FACTS)


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_truncated_file_is_named(folder: SealedFolder, size: int) -> None:
    folder.save("a.plan", FACTS, b"plan" * 20)
    path = folder.folder / "a.plan"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UnusableError, match="truncated"):
        folder.load("a.plan", FACTS)


def test_a_file_of_another_device_is_refused(folder: SealedFolder, tmp_path: Path) -> None:
    other = SealedFolder(tmp_path / "other")
    other.save("a.plan", FACTS, b"evil")
    (folder.folder / "a.plan").write_bytes((other.folder / "a.plan").read_bytes())
    with pytest.raises(UnusableError, match="wrong tag"):
        folder.load("a.plan", FACTS)


@pytest.mark.parametrize("spoil", ["mode", "short", "link"])
def test_a_key_that_others_may_know_is_replaced(
    folder: SealedFolder, spoil: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.save("a.plan", FACTS, b"plan")
    key = folder.folder / "key"
    if spoil == "mode":
        key.chmod(0o644)
    elif spoil == "short":
        key.write_bytes(b"k")
    else:
        (tmp_path / "elsewhere").write_bytes(key.read_bytes())
        key.unlink()
        key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnusableError, match="wrong tag"):
        folder.load("a.plan", FACTS)
    assert "a new key for engines is made" in caplog.text
    assert stat.S_IMODE(key.lstat().st_mode) == 0o600


def test_a_full_disk_leaves_the_old_file(folder: SealedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save("a.plan", FACTS, b"plan")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("edgeseg.runtime.files.os.fsync", full)
        with pytest.raises(BackendError, match=r"No space left.*free some disk"):
            folder.save("a.plan", FACTS, b"longer plan")
    assert folder.load("a.plan", FACTS) == b"plan"
    assert sorted(path.name for path in folder.folder.iterdir()) == ["a.plan", "key"]


def test_a_lack_of_space_is_known_beforehand(folder: SealedFolder) -> None:
    with pytest.raises(BackendError, match=r"MiB are free .*MiB for an engine"):
        folder.require_space(1 << 60)
