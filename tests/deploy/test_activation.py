"""Activate, probation, permanent or back: what the device runs after each, and what it says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.conftest import Bench

from edgeseg.deploy.agent.errors import AgentError


def test_healthy_version_becomes_permanent_and_second_push_does_nothing(bench: Bench) -> None:
    bench.install(1)
    assert bench.status()["good"]["version"] == 1
    assert "permanent already: nothing done" in bench.agent().activate(bench.makers.release(1))


def test_switch_waits_for_health_before_it_is_permanent(bench: Bench) -> None:
    bench.install(1)
    bench.agent().activate(bench.makers.release(2))
    bench.agent().guard()
    bench.live(bench.config.probation_s - 20)
    status = bench.status()
    assert (status["current"]["version"], status["good"]["version"], status["on_trial"]) == (2, 1, True)
    assert "version 2" in bench.live(60)
    assert bench.status()["good"]["version"] == 2


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({"golden": 0.5}, "masks differ"),
        ({"alive": False}, "a stage hangs"),
        ({"flowing": False, "present": True}, "frames no longer flow"),
        ({"frame_age_ms": 400.0}, "too slow"),
        ({"release": "0" * 64}, "no sign of life"),
    ],
)
def test_worse_version_is_rolled_back_by_the_device(bench: Bench, report: dict[str, Any], reason: str) -> None:
    bench.install(1)
    bench.tell(frame_age_ms=40.0)
    bench.agent().activate(bench.makers.release(2))
    bench.agent().guard()
    assert reason in bench.live(bench.config.probation_s + 100, **report)
    assert bench.version() == 1
    assert not bench.status()["on_trial"]
    with pytest.raises(AgentError, match="failed here before"):
        bench.agent().activate(bench.makers.release(2))


def test_unplugged_camera_never_rolls_back_and_the_trial_goes_on(bench: Bench) -> None:
    bench.install(1)
    bench.tell()
    bench.agent().activate(bench.makers.release(2))
    bench.agent().guard()
    assert "waiting for the camera" in bench.live(1_000, flowing=False, present=False)
    assert bench.version() == 2
    assert "is permanent" in bench.live(bench.config.probation_s + 20)


def test_frames_are_not_asked_for_where_none_flowed_before(bench: Bench) -> None:
    bench.install(1)
    bench.tell(flowing=False)
    bench.agent().activate(bench.makers.release(2))
    assert "is permanent" in bench.live(bench.config.probation_s + 20, flowing=False, present=True)


def test_second_start_in_one_boot_ends_the_trial_before_it_starts(bench: Bench) -> None:
    bench.install(1)
    bench.agent().activate(bench.makers.release(2))
    bench.agent().guard()
    assert bench.version() == 2
    assert "did not stay up" in bench.agent().guard()
    assert bench.version() == 1


def test_few_power_cuts_are_borne_and_a_reboot_loop_is_not(bench: Bench) -> None:
    bench.install(1)
    bench.agent().activate(bench.makers.release(2))
    bench.agent().guard()
    for _ in range(bench.config.max_boots - 1):
        bench.clock.reboot()
        bench.agent().guard()
        assert bench.version() == 2
    bench.clock.reboot()
    assert "reboot loop" in bench.agent().guard()
    assert bench.version() == 1


def test_start_limit_ends_the_trial_and_restarts_a_permanent_version(bench: Bench) -> None:
    bench.install(1)
    bench.agent().activate(bench.makers.release(2))
    assert "start limit" in bench.agent().start_failed()
    assert bench.version() == 1
    (bench.folder / "restarted").unlink()
    assert "started again" in bench.agent().start_failed()
    assert (bench.folder / "restarted").exists()


def test_silence_after_the_switch_rolls_back(bench: Bench) -> None:
    bench.install(1)
    bench.agent().activate(bench.makers.release(2))
    for _ in range(5):
        bench.clock.up_s += 10
        word = bench.agent().look()
        if not bench.status()["on_trial"]:
            break
    assert "no sign of life" in word
    assert bench.version() == 1


def test_failed_first_version_leaves_nothing_running(bench: Bench) -> None:
    bench.agent().activate(bench.makers.release(1))
    assert "no version to go back to" in bench.agent().start_failed()
    assert "current" not in bench.status()


def test_failing_prepare_leaves_the_running_version_alone(bench: Bench) -> None:
    bench.install(1)
    bench.set(prepare=(("sh", "-c", "exit 3"),))
    with pytest.raises(AgentError, match="status 3; the running version is untouched"):
        bench.agent().activate(bench.makers.release(2))
    assert bench.version() == 1
    assert sorted(path.name for path in (bench.config.root / "slots").iterdir()) == ["a"]


def test_slow_prepare_is_ended(bench: Bench) -> None:
    bench.set(prepare=(("sleep", "60"),), prepare_timeout_s=0.2)
    with pytest.raises(AgentError, match="took longer"):
        bench.agent().activate(bench.makers.release(1))


def test_prepare_that_alters_the_release_is_caught(bench: Bench) -> None:
    bench.install(1)
    bench.set(prepare=(("sh", "-c", "echo x >> bundle/manifest.json"),))
    with pytest.raises(AgentError, match=r"bundle/manifest.json in slot b is missing or altered"):
        bench.agent().activate(bench.makers.release(2))
    assert bench.version() == 1


def test_nothing_is_activated_during_a_trial(bench: Bench) -> None:
    bench.install(1)
    bench.agent().activate(bench.makers.release(2))
    with pytest.raises(AgentError, match=r"version 2 .* is on trial"):
        bench.agent().activate(bench.makers.release(3))
    assert "on trial already" in bench.agent().activate(bench.makers.release(2))
    assert bench.status()["good"]["version"] == 1


def test_rollback_by_hand_tries_the_version_before_and_allows_the_way_forward(bench: Bench) -> None:
    bench.install(1)
    bench.install(2)
    bench.agent().roll_back()
    bench.agent().guard()
    assert bench.version() == 1
    assert "is permanent" in bench.live(bench.config.probation_s + 20)
    with pytest.raises(AgentError, match="version 2 was another release"):
        bench.agent().activate(bench.makers.release(2, name="other"))
    bench.install(2)
    assert bench.version() == 2


def test_two_activations_at_once_and_the_lock_of_a_killed_one_heals(bench: Bench) -> None:
    bench.install(1)
    gate = bench.folder / "gate"
    os.mkfifo(gate)
    bench.set(prepare=(("sh", "-c", f"read word < {gate}"),))
    first = subprocess.Popen(bench.command("activate", bench.makers.release(2)), stdout=subprocess.PIPE, text=True)
    with gate.open("w") as stream:  # opens once the first is in the middle of it
        second = bench.run("activate", bench.makers.release(3))
        assert second.returncode == 1
        assert second.stderr.startswith("error: another change is under way on this device (process ")
        assert bench.status()["busy"]
        first.kill()
        first.wait()
        # what the killed one started still holds the slot that it writes to
        assert bench.run("activate", bench.makers.release(3)).returncode == 1
        stream.write("go\n")
    bench.set(prepare=())
    assert "nothing" in bench.agent().look()
    assert "on trial" in bench.agent().activate(bench.makers.release(3))
    assert first.stdout is not None
    first.stdout.close()


@pytest.mark.parametrize("name", ["state.json", "state.old.json", "trial.json"])
@pytest.mark.parametrize("content", [b"", b"\0" * 400, b"{}", b'{"record": 3}', None])
def test_damaged_record_loses_neither_version_nor_the_way_back(bench: Bench, name: str, content: bytes | None) -> None:
    bench.install(4)
    bench.install(5)
    bench.agent().activate(bench.makers.release(6))
    path = bench.config.root / name
    path.unlink() if content is None else path.write_bytes(content)
    bench.agent().guard()
    expected = 5 if name == "trial.json" else 6
    assert bench.version() == expected
    if expected == 6:
        bench.agent().start_failed()
    with pytest.raises(AgentError, match="older than version 5"):
        bench.agent().activate(bench.makers.release(4))
    assert bench.version() == 5


def test_all_records_lost_keeps_the_permanent_version_as_the_floor(bench: Bench) -> None:
    bench.install(5)
    for name in ("state.json", "state.old.json"):
        (bench.config.root / name).write_bytes(b"garbage")
    with pytest.raises(AgentError, match="older than version 5"):
        bench.agent().activate(bench.makers.release(4))
    assert bench.status()["damaged_records"] == []


def test_rotten_current_version_is_replaced_by_the_whole_one_before(bench: Bench) -> None:
    bench.install(1)
    bench.install(2)
    model = bench.config.root / "current" / "bundle" / "model.fp32.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    assert bench.status()["current"]["fault"].startswith("bundle/model.fp32.onnx")
    assert "running tiny version 1" in bench.agent().guard()
    assert bench.version() == 1


def test_archive_exchanged_after_verification_is_refused(bench: Bench) -> None:
    bench.install(1)
    forged = bench.folder / "forged.release"
    shutil.copy(bench.makers.release(2), forged)
    data = forged.read_bytes()
    with zipfile.ZipFile(forged) as archive:
        info = archive.getinfo("bundle/model.fp32.onnx")
    at = info.header_offset + 30 + len(info.filename) + 8
    forged.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(AgentError, match=r"Bad CRC|altered"):
        bench.agent().activate(forged)
    assert bench.version() == 1


def test_stale_service_is_restarted_when_the_agent_died_before_doing_so(bench: Bench) -> None:
    bench.set(start_s=100)
    bench.install(1)
    old = bench.status()["good"]["digest"]
    bench.agent().activate(bench.makers.release(2))
    (bench.folder / "restarted").unlink()
    for _ in range(3):  # it may still be ending
        bench.clock.up_s += 10
        bench.tell(release=old)
        assert "no sign of life" in bench.agent().look()
        assert not (bench.folder / "restarted").exists()
    bench.clock.up_s += 10
    bench.tell(release=old)
    bench.agent().look()
    assert (bench.folder / "restarted").exists()


def test_request_is_done_once_and_leaves_no_upload(bench: Bench) -> None:
    release = bench.makers.release(1)
    data = release.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    sent = subprocess.run(
        bench.command("receive", digest, "--size", str(len(data))), input=data, capture_output=True, check=False
    )
    assert sent.returncode == 0, sent.stderr
    assert bench.run("request", digest).returncode == 0
    done = bench.run("fulfil")
    assert "on trial in slot a" in done.stdout, done.stderr
    assert list((bench.config.root / "incoming").iterdir()) == []
    assert "nothing was asked for" in bench.run("fulfil").stdout
    assert json.loads(bench.run("status").stdout)["current"]["version"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
class TestFullDisk:
    @pytest.fixture
    def small(self, bench: Bench) -> Any:
        """The device's root on a file system of 4 MB."""
        bench.config.root.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(bench.config.root)], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
        yield bench
        subprocess.run(["umount", "-l", str(bench.config.root)], check=True)

    def fill(self, root: Path) -> None:
        with (root / "filler").open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
            while True:
                stream.write(b"x" * 4096)

    def test_before_is_said_before_anything_is_written(self, small: Bench) -> None:
        small.install(1)
        small.set(reserve_mb=64)
        with pytest.raises(AgentError, match="MB are free on this device; expected 65 MB"):
            small.agent().activate(small.makers.release(2))
        assert small.version() == 1

    def test_during_prepare_leaves_the_running_version(self, small: Bench) -> None:
        small.install(1)
        small.set(prepare=(("sh", "-c", "cat /dev/zero > prepared/engine"),))
        run = small.run("activate", small.makers.release(2), cwd="/")
        assert (run.returncode, run.stderr.splitlines()[-1][:28]) == (1, "error: preparing failed: sh ")
        assert small.version() == 1
        small.set(prepare=())
        assert "on trial" in small.agent().activate(small.makers.release(2))

    def test_version_that_leaves_too_little_on_trial_is_rolled_back(self, small: Bench) -> None:
        small.install(1)
        small.agent().activate(small.makers.release(2))
        small.set(least_free_mb=64)
        assert "the disk is full: " in small.live(10)
        assert small.version() == 1

    def test_release_that_fills_it_on_trial_is_rolled_back(self, small: Bench) -> None:
        small.install(1)
        small.agent().activate(small.makers.release(2))
        self.fill(small.config.root)
        small.clock.up_s += 10
        small.tell()
        with contextlib.suppress(OSError):
            small.agent().look()
        assert small.version() == 1
        (small.config.root / "filler").unlink()
        small.agent().look()
        assert not small.status()["on_trial"]
