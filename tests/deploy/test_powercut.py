"""Power cuts: of a device in the middle of an update, and of the test's own disk."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.conftest import Makers
from tests.deploy.qemu.powercuts import PowerCuts
from tests.deploy.qemu.system import System
from tests.deploy.qemu.volatile import FLUSH, MAGIC, VERSION, lose, read_log

from edgeseg.runtime.files import write_json

CUTS = int(os.environ.get("EDGESEG_POWER_CUTS", "60"))
SYSTEMD = 3
"""So many of them are followed by a boot with systemd and all units: minutes each."""
RECORD = os.environ.get("EDGESEG_POWER_CUTS_JSON")
"""Where every cut is written down; cuts that are there already are not made again."""
KEPT = os.environ.get("EDGESEG_POWER_CUTS_FOLDER")
"""Where the device and its saved states stay, for the next session."""


def a_log(path: Path, *requests: tuple[int, bytes, int]) -> Path:
    """A log as blklogwrites writes it, with sectors of 512 bytes: (sector, data, flags)."""
    content = struct.pack("<QQQI", MAGIC, VERSION, len(requests), 512).ljust(512, b"\0")
    for sector, data, flags in requests:
        content += struct.pack("<QQQQ", sector, len(data) // 512, flags, 0).ljust(512, b"\0") + data
    path.write_bytes(content + bytes(1024))
    return path


def test_what_was_flushed_survives_a_cut_and_the_rest_is_lost(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(8 * 512))
    log = a_log(tmp_path / "log", (1, b"a" * 512, 0), (0, b"", FLUSH), (2, b"b" * 1024, 0), (1, b"c" * 512, 0))
    loss = lose(tmp_path / "disk", log, tmp_path / "after", random.Random(0), keep=0)
    left = (tmp_path / "after").read_bytes()
    assert left[512:1024] == b"a" * 512 and not any(left[1024:])
    assert (loss.durable, loss.pending, loss.lost) == (2, 2, 2)
    lose(tmp_path / "disk", log, tmp_path / "after", random.Random(0), keep=1)
    assert (tmp_path / "after").read_bytes()[512:2048] == b"c" * 512 + b"b" * 1024


def test_every_mixture_of_unflushed_requests_turns_up(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4 * 512))
    log = a_log(tmp_path / "log", (0, b"a" * 1024, 0), (2, b"b" * 512, 0))
    found = set()
    for seed in range(60):
        lose(tmp_path / "disk", log, tmp_path / "after", random.Random(seed), keep=0.5)
        left = (tmp_path / "after").read_bytes()
        found.add((left[:1024].count(b"a"), left[1024:].count(b"b")))
    assert found == {(a, b) for a in (0, 512, 1024) for b in (0, 512)}


def test_request_that_was_being_logged_is_left_out(tmp_path: Path) -> None:
    log = a_log(tmp_path / "log", (0, b"a" * 512, 0), (2, b"b" * 1024, 0))
    log.write_bytes(log.read_bytes()[: 4 * 512])
    assert [request.data[:1] for request in read_log(log)] == [b"a"]


@pytest.fixture(scope="module")
def cuts(makers: Makers) -> Iterator[PowerCuts]:
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 6 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as folder:
        signer = makers.key.with_suffix(".pub")
        cuts = PowerCuts(Path(KEPT or folder), System(), makers.release(1), makers.release(2), signer)
        yield cuts
        cuts.close()


@pytest.mark.heavy
@pytest.mark.timeout(6 * 3600)
def test_cut_takes_what_was_not_synced(cuts: PowerCuts) -> None:
    """Else the test below would show nothing."""
    assert cuts.lose_unsynced() == {"synced": b"new\n", "unsynced": b"old\n", "never": None}


@pytest.mark.heavy
@pytest.mark.timeout(6 * 3600)
def test_device_runs_a_whole_version_after_every_power_cut(cuts: PowerCuts) -> None:
    for index in range(len(made := recorded("cuts")), CUTS):
        how = "systemd" if index >= CUTS - SYSTEMD else "device" if index % 20 == 19 else "disk"
        cut = cuts.cut(index, how)
        made.append(asdict(cut))
        write_down(cuts, cuts=made)
        assert cut.ran in (1, 2) and cut.ended_on == 2, cut
    assert {cut["ran"] for cut in made} == {1, 2}, "the moments do not cover the activation"
    assert sum(cut["lost"] + cut["torn"] for cut in made), "no disk lost anything that it had not flushed"


@pytest.mark.heavy
@pytest.mark.timeout(6 * 3600)
def test_device_runs_a_whole_version_after_a_cut_between_any_two_disk_requests(cuts: PowerCuts) -> None:
    made = recorded("replays")
    moments = [(count, keep) for keep in (0.0, 0.5) for count in range(int(cuts.whole["requests"]) + 1)]
    for count, keep in moments[len(made) :]:
        cut = cuts.replay(count, keep)
        made.append(asdict(cut))
        write_down(cuts, replays=made)
        assert cut.ran in (1, 2) and cut.ended_on == 2, cut
    assert {cut["ran"] for cut in made} == {1, 2}


def recorded(kind: str) -> list[dict[str, Any]]:
    """What an earlier session has written down."""
    found = json.loads(Path(RECORD).read_bytes()) if RECORD and Path(RECORD).exists() else {}
    return list(found.get(kind, []))


def write_down(device: PowerCuts, **made: list[dict[str, Any]]) -> None:
    if RECORD:
        kinds = {kind: recorded(kind) for kind in ("cuts", "replays")}
        write_json(Path(RECORD), {"schema": "edgeseg/power-cuts/1", "activation": device.whole, **kinds, **made})
