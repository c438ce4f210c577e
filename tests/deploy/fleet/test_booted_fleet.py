"""Three booted devices, with the inventory's defaults: canaries, a bad release, a link lost during a trial."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.deploy.conftest import Makers
from tests.deploy.devices import Device, Devices, write_program

from edgeseg.runtime.cli import main

pytestmark = [pytest.mark.booted, pytest.mark.timeout(1500)]

BALLAST = 2_000_000
"""Bytes of a file that is the same in all these releases."""
NAMES = ("gate-1", "gate-2", "yard-1")


class Yard:
    """The fleet as its owner sees it: an inventory, and the command."""

    def __init__(self, folder: Path, devices: Devices, makers: Makers) -> None:
        self.folder, self._makers = folder, makers
        self.devices = {name: devices.boot(name, signer=makers.key.with_suffix(".pub"), disk_mb=256) for name in NAMES}
        self.inventory = folder / "fleet.toml"
        lines = [f'known_hosts = "{devices.known_hosts}"', "[variables]", f'identity = "{devices.login_key}"']
        for name, device in self.devices.items():
            lines += [f"[devices.{name}]", f'address = "{device.address}"']
        self.inventory.write_text("\n".join([*lines[:5], "canary = true", *lines[5:]]) + "\n", "utf-8")

    def release(self, version: int, behaviour: str) -> Path:
        wheelhouse = write_program(self.folder, behaviour)
        (wheelhouse / "ballast").write_bytes(random.Random(0).randbytes(BALLAST))
        return self._makers.release(version, wheelhouse=wheelhouse)

    def edgeseg(self, *words: str | Path) -> Result:
        return CliRunner().invoke(main, ["deploy", *map(str, words), "--inventory", str(self.inventory)])

    def push(self, release: Path, *words: str) -> tuple[Result, dict[str, dict[str, Any]]]:
        path = self.folder / "push.json"
        result = self.edgeseg("push", release, "--json", path, *words)
        return result, {item["device"]: item for item in json.loads(path.read_text())["devices"]}

    def versions(self) -> list[tuple[bool, int]]:
        path = self.folder / "status.json"
        assert self.edgeseg("status", "--json", path).exit_code == 0
        devices = json.loads(path.read_text())["devices"]
        return [(item["current"]["whole"] and not item["on_trial"], item["current"]["version"]) for item in devices]


@pytest.fixture(scope="module")
def yard(devices: Devices, makers: Makers, tmp_path_factory: pytest.TempPathFactory) -> Yard:
    yard = Yard(tmp_path_factory.mktemp("yard"), devices, makers)
    result, endings = yard.push(yard.release(1, "good"))
    assert result.exit_code == 0, result.output
    assert {item["ending"] for item in endings.values()} == {"permanent"}
    assert yard.versions() == [(True, 1)] * 3
    return yard


def test_fleet_of_three_with_one_bad_canary_stays_on_the_good_version(yard: Yard) -> None:
    result, devices = yard.push(yard.release(2, "wrong"))
    assert result.exit_code == 1
    assert "stopped: 1 of 1 canaries failed" in result.output
    assert [devices[name]["ending"] for name in NAMES] == ["failed", "untouched", "untouched"]
    assert "masks differ from the golden ones" in devices["gate-1"]["detail"]
    assert yard.versions() == [(True, 1)] * 3
    logs = yard.edgeseg("logs", "--limit", "gate-1", "--lines", "40")
    assert "gate-1: " in logs.output
    assert "masks differ" in logs.output

    result, devices = yard.push(yard.release(3, "good"))
    assert result.exit_code == 0, result.output
    assert yard.versions() == [(True, 3)] * 3
    assert all(0 < device["sent_bytes"] < BALLAST / 10 for device in devices.values())

    result, devices = yard.push(yard.release(3, "good"))
    assert "nothing was to be done on 3 of 3 devices" in result.output
    assert {(item["ending"], item["sent_bytes"]) for item in devices.values()} == {("unchanged", 0)}


def test_link_lost_during_the_trial_ends_as_if_it_had_held(yard: Yard) -> None:
    lost = yard.devices["gate-2"]
    helper = threading.Thread(target=cut_during_trial, args=(lost,))
    helper.start()
    result, devices = yard.push(yard.release(4, "good"), "--limit", "gate-2")
    helper.join()
    assert result.exit_code == 0, result.output
    assert devices["gate-2"]["ending"] == "permanent"
    assert "gate-2: waiting" in result.output
    assert lost.status()["current"]["version"] == 4


def cut_during_trial(device: Device) -> None:
    device.await_status(lambda status: bool(status["on_trial"]))
    device.set_link(False)
    device.await_status(lambda status: not status["on_trial"])
    device.set_link(True)


def test_rollback_goes_to_the_version_before(yard: Yard) -> None:
    device = yard.devices["yard-1"]
    before = device.status()["current"]["version"]
    result = yard.edgeseg("rollback", "--limit", "yard-1")
    assert result.exit_code == 0, result.output
    assert "yard-1: tiny version 1" in result.output
    status = device.await_status(lambda status: not status["on_trial"] and status["current"]["version"] != before)
    assert status["current"]["version"] == 1
