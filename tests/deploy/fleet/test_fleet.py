"""Many devices: canaries, the share of failures, pins, and the commands that a person types."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from tests.deploy.conftest import Makers
from tests.deploy.fleet.bench import Fleet, StandIns
from tests.test_docs import shown_commands

from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.fleet import engine, show
from edgeseg.deploy.fleet.offer import read_offer
from edgeseg.deploy.fleet.rollout import Failures, Report, Rollout, roll_out
from edgeseg.deploy.inventory import Device, load_inventory, select
from edgeseg.deploy.push import Patience
from edgeseg.runtime.cli import main

# Over SSH, by the command.


def edgeseg(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["deploy", *map(str, words)])


def test_bad_canary_stops_the_rollout_and_the_rest_is_untouched(fleet: Fleet, makers: Makers) -> None:
    canary, other = fleet.add("one"), fleet.add("two")
    canary.fate = "bad"
    inventory, report = fleet.write_inventory(one="canary = true"), fleet.folder / "push.json"
    result = edgeseg("push", makers.release(1), "--inventory", inventory, "--json", report)
    assert result.exit_code == 1
    assert "error: stopped: 1 of 1 canaries failed" in result.output
    devices = {item["device"]: item for item in json.loads(report.read_text())["devices"]}
    assert (devices["one"]["ending"], devices["two"]["ending"]) == ("failed", "untouched")
    assert "masks differ" in devices["one"]["detail"]
    assert (canary.bench.version(), other.bench.version(), other.line.connections) == (None, None, 0)


def test_good_canary_opens_the_way_and_the_commands_tell_of_it(fleet: Fleet, makers: Makers) -> None:
    first, second, pinned = (fleet.add(name) for name in ("one", "two", "three"))
    inventory = fleet.write_inventory(two="canary = true", three="pin = 7")
    result = edgeseg("push", makers.release(1), "--inventory", inventory)
    assert result.exit_code == 0, result.output
    assert "is permanent on 2 of 3 devices" in result.output
    assert result.output.index("two: permanent") < result.output.index("one: asking")
    assert [device.bench.version() for device in (first, second, pinned)] == [1, 1, None]
    assert pinned.line.connections == 0

    second.line.down = True
    report = fleet.folder / "status.json"
    told = edgeseg("status", "--inventory", inventory, "--json", report)
    assert told.exit_code == 0, told.output
    assert [line.split() for line in told.output.splitlines()[:4]] == [
        ["device", "runs", "pin", "state", "frames"],
        ["one", "tiny", "1", "permanent", "no", "word"],
        ["two", "–", "unreachable", "–"],
        ["three", "–", "7", "empty", "no", "word"],
    ]
    one, two, three = json.loads(report.read_text())["devices"]
    assert (one["reachable"], one["current"]["version"], one["current"]["whole"]) == (True, 1, True)
    assert (two["reachable"], "error" in two) == (False, True)
    assert (three["reachable"], three["pin"], "current" in three) == (True, 7, False)
    refused = edgeseg("rollback", "--inventory", inventory, "--limit", "o*")
    assert refused.exit_code == 1
    assert "one: there is no other version on this device; fix: push one" in refused.output
    spoken = edgeseg("logs", "--inventory", inventory, "--limit", "t*", "--lines", "3")
    assert "three: three said 3" in spoken.output
    assert "error: 1 of 2 devices did not do it: two" in spoken.output


def test_rollback_wants_to_know_where(fleet: Fleet) -> None:
    fleet.add("one")
    result = edgeseg("rollback", "--inventory", fleet.write_inventory())
    assert result.exit_code == 1
    assert "no devices were named; expected --limit, --group or --all" in result.output


@pytest.mark.parametrize("limit", ["many", "-1", "200%", "-3%", "%"])
def test_failure_limit_that_is_none_is_wrong_usage(fleet: Fleet, limit: str) -> None:
    result = edgeseg("push", "x", "--inventory", "y", "--max-failures", limit)
    assert result.exit_code == 2
    assert "neither a number of devices nor a share such as 10%" in result.output


def test_release_that_is_none_reaches_nobody(fleet: Fleet) -> None:
    device = fleet.add("one")
    inventory = fleet.write_inventory()
    result = edgeseg("push", inventory, "--inventory", inventory)
    assert result.exit_code == 1
    assert "fleet.toml is not a readable release" in result.output
    assert device.line.connections == 0


# Many devices that answer from a table, to see whom a rollout reaches.


class Log:
    """What a rollout told, and how long its devices were out of reach."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def __call__(self, device: str, stage: str, words: str = "", *, done: int = 0, total: int = 0) -> None:
        self.entries.append((device, stage))


@dataclass(frozen=True)
class Rolled:
    report: Report
    told: list[tuple[str, str]]
    stand_ins: StandIns

    def endings(self) -> list[str]:
        return [outcome.ending for outcome in self.report.outcomes]


@pytest.fixture
def roll(makers: Makers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rolled]:
    """Roll a release out to stand-ins with these fates."""
    offer = read_offer(makers.release(3))
    stand_ins = StandIns(tmp_path / "devices", offer.descriptor.digest)
    monkeypatch.setenv("PATH", f"{stand_ins.programs}:{os.environ['PATH']}")

    def do(
        fates: dict[str, str],
        *,
        canaries: tuple[str, ...] = (),
        pins: dict[str, int] | None = None,
        retry_s: float = 0,
        **rules: Any,
    ) -> Rolled:
        for name, fate in fates.items():
            stand_ins.add(name, fate)
        devices = [
            Device(name=name, address=name, known_hosts=tmp_path, agent=("agent",), pin=(pins or {}).get(name))
            for name in fates
        ]
        log = Log()
        settled = Rollout(**{"parallel": 1, "patience": Patience(retry_s=retry_s, wait_s=5), **rules})
        report = roll_out(devices, offer, settled, log, canaries=canaries)
        return Rolled(report, log.entries, stand_ins)

    return do


def test_rest_is_stopped_above_the_share(roll: Callable[..., Rolled]) -> None:
    rolled = roll(
        {f"d{number}": "good" if number < 1 else "bad" for number in range(6)}, max_failures=Failures(share=0.2)
    )
    assert rolled.report.aborted == "2 of 6 devices failed"
    assert rolled.endings() == ["permanent", "failed", "failed", "untouched", "untouched", "untouched"]
    assert {device for device, _, _ in rolled.stand_ins.said()} == {"d0", "d1", "d2"}


@pytest.mark.parametrize(
    ("limit", "devices", "allowed"),
    [
        (Failures(count=3), 2, 3),
        (Failures(share=0.07), 100, 7),
        (Failures(share=0.2), 9, 1),
        (Failures(share=1.0), 5, 5),
        (Failures(), 5, 0),
    ],
)
def test_share_is_of_the_wave(limit: Failures, devices: int, allowed: int) -> None:
    assert limit.allowed(devices) == allowed


def test_device_that_is_off_keeps_nobody_waiting_and_is_tried_again(roll: Callable[..., Rolled]) -> None:
    rolled = roll({"a": "off", "b": "good", "c": "locked"}, retry_s=3)
    assert (rolled.endings(), rolled.report.aborted) == (["unreachable", "permanent", "unreachable"], "")
    assert rolled.told.index(("b", "permanent")) < rolled.told.index(("a", "unreachable"))
    assert len([device for device, _, _ in rolled.stand_ins.said() if device == "a"]) >= 2
    assert "may not log in" in rolled.report.outcomes[2].detail


def test_device_that_is_off_is_not_tried_again_once_the_rest_is_stopped(roll: Callable[..., Rolled]) -> None:
    rolled = roll({"a": "off", "b": "bad", "c": "good"}, retry_s=3)
    assert (rolled.endings(), rolled.report.aborted) == (
        ["unreachable", "failed", "untouched"],
        "1 of 3 devices failed",
    )
    assert [device for device, _, _ in rolled.stand_ins.said()].count("a") == 1


def test_canary_that_is_off_stops_the_rest(roll: Callable[..., Rolled]) -> None:
    rolled = roll({"a": "off", "b": "good"}, canaries=("a",))
    assert (rolled.endings(), rolled.report.aborted) == (["unreachable", "untouched"], "1 of 1 canaries failed")
    assert {device for device, _, _ in rolled.stand_ins.said()} == {"a"}


def test_no_good_canary_stops_the_rest_whatever_may_fail(roll: Callable[..., Rolled]) -> None:
    rolled = roll(
        {"c": "good", "a": "bad", "b": "bad"}, canaries=("a", "b"), max_failures=Failures(count=5), parallel=2
    )
    assert rolled.endings() == ["untouched", "failed", "failed"]
    assert rolled.report.aborted == "no canary proved the release"
    assert sorted(rolled.stand_ins.requested()) == ["a", "b"]


def test_one_bad_canary_of_two_is_borne_where_one_may_fail(roll: Callable[..., Rolled]) -> None:
    rolled = roll({"c": "good", "a": "bad", "b": "good"}, canaries=("a", "b"), max_failures=Failures(count=1))
    assert (rolled.endings(), rolled.report.aborted) == (["permanent", "failed", "permanent"], "")
    assert rolled.stand_ins.requested() == ["a", "b", "c"]


def test_pinned_device_is_never_asked(roll: Callable[..., Rolled]) -> None:
    rolled = roll({"a": "good", "b": "good", "c": "good"}, pins={"a": 2, "b": 3}, canaries=("a",))
    assert rolled.endings() == ["pinned", "permanent", "permanent"]
    assert "a" not in {device for device, _, _ in rolled.stand_ins.said()}


def test_refusal_counts_and_so_does_a_process_that_vanishes(roll: Callable[..., Rolled]) -> None:
    rolled = roll({"a": "dead", "b": "full", "c": "good"})
    assert (rolled.endings(), rolled.report.aborted) == (["lost", "refused", "untouched"], "1 of 3 devices failed")
    assert "ended without a word" in rolled.report.outcomes[0].detail


def test_release_that_goes_away_meanwhile_is_told(
    makers: Makers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = replace(read_offer(makers.release(3)), path=tmp_path / "gone.release")
    stand_ins = StandIns(tmp_path / "devices", offer.descriptor.digest)
    stand_ins.add("a", "good")
    monkeypatch.setenv("PATH", f"{stand_ins.programs}:{os.environ['PATH']}")
    device = Device(name="a", address="a", known_hosts=tmp_path, agent=("agent",))
    report = roll_out([device], offer, Rollout(), Log(), canaries=())
    assert report.outcomes[0].ending == "lost"
    assert "FileNotFoundError" in report.outcomes[0].detail
    assert stand_ins.requested() == []


_ROLLER = """
import sys
from edgeseg.runtime.cli import main
main(["deploy", "push", *sys.argv[1:], "--retry-for", "1000"])
"""


def test_processes_of_a_killed_push_end_with_it(makers: Makers, tmp_path: Path) -> None:
    release = makers.release(3)
    stand_ins = StandIns(tmp_path / "devices", read_offer(release).descriptor.digest)
    lines = []
    for name in ("a", "b"):
        stand_ins.add(name, "off")
        lines += [f"[devices.{name}]", f'address = "{name}"']
    inventory = write(tmp_path, "\n".join(lines))
    pusher = subprocess.Popen(
        [sys.executable, "-c", _ROLLER, str(release), "--inventory", str(inventory)],
        env={**os.environ, "PATH": f"{stand_ins.programs}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
    )
    try:
        await_true(lambda: len(stand_ins.said()) >= 6)  # the second tries are on, which wait in their processes
    finally:
        pusher.kill()
        pusher.wait()
    doors = {process for _, _, process in stand_ins.said()}
    await_true(lambda: not any(Path(f"/proc/{process}/cmdline").exists() for process in doors))


def await_true(reached: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_several_devices_without_ansible_are_one_line_and_one_device_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins = StandIns(tmp_path / "devices", "x")
    for name in ("a", "b"):
        stand_ins.add(name, "good")
    inventory = write(tmp_path, '[devices.a]\naddress = "a"\n[devices.b]\naddress = "b"\n')
    monkeypatch.setenv("PATH", f"{stand_ins.programs}:/usr/bin:/bin")
    monkeypatch.setattr(engine, "_PROGRAM", "ansible-playbook-that-is-not-there")
    result = edgeseg("status", "--inventory", inventory)
    assert result.exit_code == 1
    assert "is not installed; expected ansible-playbook" in result.output
    assert "fix: pip install 'edgeseg[fleet]'" in result.output
    assert stand_ins.said() == []
    assert edgeseg("status", "--inventory", inventory, "--limit", "a").exit_code == 0


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ({"on_trial": True, "good": {"version": 7}}, True),
        ({"on_trial": True, "good": {"version": 6}}, False),
        ({"on_trial": False, "good": {"version": 7}}, False),
        ({}, False),
    ],
)
def test_rollback_does_not_leave_a_pin(
    status: dict[str, Any], done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins = StandIns(tmp_path / "devices", "x")
    stand_ins.add("a", "good", **status)
    monkeypatch.setenv("PATH", f"{stand_ins.programs}:{os.environ['PATH']}")
    result = edgeseg("rollback", "--inventory", write(tmp_path, '[devices.a]\naddress = "a"\npin = 7\n'), "--all")
    assert ("rollback" in [word for _, word, _ in stand_ins.said()]) is done
    assert result.exit_code == (0 if done else 1)
    assert (
        "a: pinned to version 7 in the inventory: not rolled back; fix: change its pin" in result.output
    ) is not done


def test_terminal_shows_who_is_at_it_and_forgets_who_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(show, "console", Console(file=screen, force_terminal=True, width=100))
    with show.watching() as tell:
        tell("gate-1", "uploading", done=1_000_000, total=2_000_000)
        tell("yard [1]", "on the device", "on trial")
        tell("gate-2", "permanent")
    assert "1.0 of 2.0 MB" in screen.getvalue()
    assert "yard [1]" in screen.getvalue()
    assert "gate-2" not in screen.getvalue()


# The page.


def test_every_command_of_the_page_runs(makers: Makers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "fleet.md").read_text("utf-8")
    (inventory,) = re.findall(r"^```toml\n(.*?)^```", page, re.S | re.M)
    (tmp_path / "fleet.toml").write_text(inventory, "utf-8")
    release = tmp_path / "yard-7.release"
    release.write_bytes(makers.release(7).read_bytes())
    monkeypatch.chdir(tmp_path)
    stand_ins = StandIns(tmp_path / "devices", read_offer(release).descriptor.digest)
    for address in ("10.0.0.11", "10.0.0.12", "yard-1.example"):
        stand_ins.add(address, "good")
    monkeypatch.setenv("PATH", f"{stand_ins.programs}:{os.environ['PATH']}")
    commands = shown_commands("docs/fleet.md")
    assert len(commands) == 5
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"
    assert sorted(stand_ins.requested()) == ["10.0.0.11", "10.0.0.12", "yard-1.example"]
    assert stand_ins.requested()[0] == "10.0.0.11"


# The inventory.

_INVENTORY = """
known_hosts = "keys/known"
[variables]
identity = "keys/id"
port = 2201
[groups.gates]
port = 2202
pin = 5
[groups.north]
port = 2203
[devices.gate-1]
address = "10.0.0.1"
groups = ["gates", "north"]
canary = true
[devices.yard]
address = "fe80::1%eth0"
user = "pi"
agent = ["sudo", "-n", "agent"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text, "utf-8")
    return path


def test_variables_of_later_layers_win(tmp_path: Path) -> None:
    gate, yard = load_inventory(write(tmp_path, _INVENTORY))
    assert (gate.port, gate.pin, gate.canary, gate.user) == (2203, 5, True, "edgeseg-agent")
    assert gate.identity == tmp_path / "keys" / "id"
    assert gate.known_hosts == tmp_path / "keys" / "known"
    assert (yard.port, yard.pin, yard.user, yard.agent) == (2201, None, "pi", ("sudo", "-n", "agent"))


def test_selection_is_by_group_and_by_name(tmp_path: Path) -> None:
    devices = load_inventory(write(tmp_path, _INVENTORY))
    assert [device.name for device in select(devices)] == ["gate-1", "yard"]
    assert [device.name for device in select(devices, groups=["gates"], limit=["gate-*"])] == ["gate-1"]
    with pytest.raises(DeployError, match="no device is in group 'south'; expected one of gates, north"):
        select(devices, groups=["south"])
    with pytest.raises(DeployError, match="no device is named 'gate-2'; expected gate-1, yard"):
        select(devices, limit=["gate-2"])
    with pytest.raises(DeployError, match="no device is in these groups and has such a name"):
        select(devices, groups=["gates"], limit=["yard"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[devices.a]\n", "devices.a.address: Field required"),
        ("[devices.a]\naddress = '-oProxyCommand=x'\n", "devices.a.address: String should match"),
        ("[devices.a]\naddress = 'x y'\n", "devices.a.address: String should match"),
        ("[devices.a]\naddress = 'x'\nuser = '-x'\n", "devices.a.user: String should match"),
        ("[devices.a]\naddress = 'x'\ncolour = 'red'\n", "devices.a.colour: Extra inputs are not permitted"),
        ("[devices.a]\naddress = 'x'\nport = 0\n", "devices.a.port: Input should be greater"),
        ("[devices.a]\naddress = 'x'\ngroups = ['g']\n", "a is in group 'g'; expected a table [groups.g]"),
        ("[devices]\n", "devices: Dictionary should have at least 1 item"),
        ("[devices", "is not TOML"),
    ],
)  # fmt: skip
def test_inventory_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(DeployError) as error:
        load_inventory(write(tmp_path, text))
    assert found in str(error.value)
    assert "\n" not in str(error.value)
