"""Releases on booted devices, with the units as they are: what runs after each fault, and what the device says."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.conftest import Makers
from tests.deploy.devices import AS_AGENT, SETTINGS, Device, Devices, write_program

from edgeseg.runtime.files import sha256_file

pytestmark = [pytest.mark.booted, pytest.mark.timeout(900)]

Make = Callable[..., Path]
_versions = count(1)

LONG_AGO, YEARS_LATER, IN_2040 = 1_262_304_000, 1_293_840_000, 2_208_988_800
"""Releases of these tests are signed in 2010: seen from there, the devices' clocks are many years ahead."""


@pytest.fixture(scope="module")
def make(makers: Makers, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return the next version of a release with a behaviour."""
    folder = tmp_path_factory.mktemp("programs")

    def make_release(behaviour: str = "good", *, created: int = LONG_AGO, **plan: Any) -> Path:
        return makers.release(next(_versions), wheelhouse=write_program(folder, behaviour), created=created, **plan)

    return make_release


@pytest.fixture(scope="module")
def booted(devices: Devices, makers: Makers, make: Make) -> Device:
    """One device for all tests of this module, with a good permanent version."""
    device = devices.boot("camera", signer=makers.key.with_suffix(".pub"), disk_mb=256)
    device.push(make())
    device.await_status(lambda status: status.get("good") is not None and not status["on_trial"])
    return device


@pytest.fixture
def device(booted: Device, request: pytest.FixtureRequest) -> Iterator[Device]:
    """The device, frames flowing, nothing on trial. What it says afterwards goes to the file EDGESEG_OUTCOMES."""
    booted.await_status(is_flowing)
    yield booted
    if path := os.environ.get("EDGESEG_OUTCOMES"):
        status = booted.status()
        current = status["current"]
        runs = f"version {current['version']}, {'whole' if current['whole'] else 'NOT WHOLE'}"
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(f"| `{request.node.name}` | {runs} | {re.sub(r' [(][0-9a-f]+[)]', '', status['last'])} |\n")
    booted.set_link(True)
    booted.run("rm", "-f", "/var/lib/edgeseg-service/behaviour", "/var/lib/edgeseg-service/filler")
    booted.configure(**SETTINGS)


def is_flowing(status: dict[str, Any]) -> bool:
    """Whether frames flow in the permanent version; the last word of the one before it still counts for 10 s."""
    health = status.get("health", {})
    return not status["on_trial"] and health.get("release") == status["good"]["digest"] and health["flowing"]


def assert_back(device: Device, before: dict[str, Any], reason: str, limit_s: float = 150) -> None:
    """The device must go back by itself to what ran before, and say why."""
    after = device.await_status(lambda status: status["last"] != before["last"] and is_flowing(status), limit_s)
    assert reason in after["last"], after["last"]
    assert after["current"] == before["current"] and after["good"] == before["good"]
    assert after["current"]["whole"]


def test_pushed_release_passes_by_the_path_units_and_becomes_permanent(device: Device, make: Make) -> None:
    before = device.status()["current"]
    device.push(make())
    trial = device.await_status(lambda status: status["on_trial"])
    assert trial["current"] != before and trial["good"] == before
    after = device.await_status(lambda status: not status["on_trial"])
    assert after["good"] == trial["current"] and after["last"].endswith("is permanent")
    assert device.run("systemctl", "show", "edgeseg", "-P", "NRestarts").stdout == "0\n"
    assert device.run("find", "/var/lib/edgeseg/incoming", "-type", "f").stdout == ""


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("crash", "did not stay up"),
        ("hang", "a stage hangs"),
        ("mute", "a stage hangs"),
        ("wrong", "masks differ"),
        ("slow", "too slow"),
    ],
)
def test_release_that_misbehaves_is_rolled_back(device: Device, make: Make, behaviour: str, reason: str) -> None:
    before = device.status()
    device.push(make(behaviour))
    assert_back(device, before, reason)


def test_release_that_fills_the_disk_is_rolled_back(device: Device, make: Make) -> None:
    before = device.status()
    device.push(make("fill"))
    device.await_status(lambda status: status["on_trial"])
    assert_back(device, before, "the disk is full")


def test_stopped_service_is_killed_by_the_watchdog_and_its_trial_ends(device: Device, make: Make) -> None:
    device.configure(start_s=600, probation_s=600)
    before = device.status()
    device.push(make())
    device.await_status(
        lambda status: status["on_trial"] and status.get("health", {}).get("release") == status["current"]["digest"]
    )
    device.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "edgeseg")
    assert_back(device, before, "did not stay up")
    assert "Watchdog timeout" in device.journal("-u", "edgeseg")


def test_permanent_version_that_hits_the_start_limit_is_started_again(device: Device) -> None:
    before = device.status()["current"]
    device.run("tee", "/var/lib/edgeseg-service/behaviour", input="crash")
    device.run("systemctl", "restart", "edgeseg")
    for _ in range(60):
        if "Start request repeated too quickly" in device.journal("-u", "edgeseg"):
            break
        device.run("sleep", "1")
    else:
        pytest.fail(device.journal("-u", "edgeseg"))
    device.run("rm", "/var/lib/edgeseg-service/behaviour")
    assert device.await_status(is_flowing)["current"] == before
    assert "was started again" in device.journal("-u", "edgeseg-start-failed")


def test_reboot_loop_ends_on_the_version_before(device: Device, make: Make) -> None:
    device.configure(probation_s=3600)
    before = device.status()
    device.push(make())
    device.await_status(lambda status: status["on_trial"])
    for _ in range(2):
        device.reboot()
        assert device.status()["on_trial"], "a few boots can be power cuts"
    device.reboot()
    assert_back(device, before, "a reboot loop")


def test_power_cut_loses_what_was_not_synced(device: Device) -> None:
    device.run("sh", "-c", "echo kept > /root/synced; sync /root/synced; echo lost > /root/unsynced")
    device.cut_power()
    device.start()
    assert device.run("sh", "-c", "cat /root/synced /root/unsynced", check=False).stdout == "kept\n"


def test_power_cuts_at_any_moment_leave_a_whole_version_and_the_update_gets_to_its_end(
    device: Device, make: Make
) -> None:
    device.configure(
        prepare=[["sh", "-c", "for n in 1 2 3 4; do echo $n > prepared/$n; sleep 0.4; done"]], max_boots=99
    )
    before = device.status()
    seen = {before["current"]["version"]}
    device.push(make())
    for after_ms in (200, 700, 1200, 1700, 2200, 2700, 3500, 5000):
        device.run("sleep", str(after_ms / 1000))
        device.cut_power()
        device.start()
        status = device.status()
        for link in ("current", "good"):
            assert status[link]["whole"], (after_ms, status)
            seen.add(status[link]["version"])
    after = device.await_status(is_flowing)
    assert after["current"]["whole"] and after["current"] != before["current"], after
    assert seen <= {before["current"]["version"], after["current"]["version"]}


def test_device_with_its_cable_out_finishes_a_good_release_alone(device: Device, make: Make) -> None:
    before = device.status()
    device.push(make())
    device.set_link(False)
    after = device.await_status(lambda status: is_flowing(status) and status["good"] != before["good"])
    assert after["current"]["whole"]


def test_device_with_its_cable_out_after_the_switch_goes_back_alone(device: Device, make: Make) -> None:
    before = device.status()
    device.push(make("wrong"))
    device.await_status(lambda status: status["on_trial"])
    device.set_link(False)
    assert_back(device, before, "masks differ")


def test_upload_cut_by_the_link_changes_nothing_and_is_resumed(device: Device, make: Make, tmp_path: Path) -> None:
    before, release = device.status(), make("good")
    half = tmp_path / "half"
    data = release.read_bytes()
    half.write_bytes(data[: len(data) // 2])
    digest = sha256_file(release)
    assert device.ssh("receive", digest, "--size", str(len(data)), stdin=half, check=False).returncode == 1
    device.set_link(False)
    assert device.ssh("status", check=False).returncode == 255
    assert device.status()["current"] == before["current"]
    device.set_link(True)
    offset = int(device.ssh("offset", digest).stdout)
    assert offset == len(data) // 2
    half.write_bytes(data[offset:])
    device.ssh("receive", digest, "--size", str(len(data)), "--offset", str(offset), stdin=half)
    device.ssh("request", digest)
    after = device.await_status(lambda status: is_flowing(status) and status["good"] != before["good"])
    assert after["current"]["whole"]


def test_clock_ahead_by_years_refuses_the_expired_only_where_it_is_trusted(device: Device, make: Make) -> None:
    before, release = device.status()["current"], make(expires=YEARS_LATER)
    device.configure(clock="trusted")
    assert "expired on 2011" in activate(device, release).stderr
    assert device.status()["current"] == before
    device.configure(clock="auto")  # the kernel says that nobody has set it
    assert "is on trial" in activate(device, release).stdout
    device.agent("rollback")
    assert device.await_status(is_flowing)["current"] == before


@pytest.mark.parametrize("clock", ["auto", "trusted"])
def test_clock_behind_by_years_keeps_nothing_from_being_installed(device: Device, make: Make, clock: str) -> None:
    before = device.status()["current"]
    device.configure(clock=clock)
    assert "is on trial" in activate(device, make(created=IN_2040)).stdout
    device.agent("rollback")
    assert device.await_status(is_flowing)["current"] == before


def test_two_activations_at_once_leave_one_on_trial(device: Device, make: Make) -> None:
    device.configure(prepare=[["sleep", "3"]])
    before = device.status()
    command = " ".join((*AS_AGENT, "activate"))
    one, other = (f"{command} {carry(device, release)} 2>&1" for release in (make(), make()))
    said = device.run("sh", "-c", f"{one} & {other}; wait").stdout
    assert said.count("is on trial in slot") == 1 and said.count("another change is under way") == 1, said
    after = device.await_status(lambda status: is_flowing(status) and status["good"] != before["good"])
    assert after["current"] == after["good"] and after["current"]["whole"]


def carry(device: Device, release: Path) -> str:
    """Put a release on the device, past all checks, and return where."""
    path = f"/var/tmp/{release.name}"
    device.write(path, release.read_bytes())
    return path


def activate(device: Device, release: Path) -> subprocess.CompletedProcess[str]:
    return device.agent("activate", carry(device, release), check=False)
