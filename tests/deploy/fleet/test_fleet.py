"""Many devices: canaries, the share of failures, pins, and the commands that a person types."""

from __future__ import annotations

import io
import json
import re
import shlex
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from tests.deploy.conftest import Makers
from tests.deploy.fleet.bench import Fleet
from tests.test_docs import shown_commands

from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.fleet import show
from edgeseg.deploy.fleet.errors import FleetError, OfflineError, RefusedError
from edgeseg.deploy.fleet.link import Link
from edgeseg.deploy.fleet.offer import Offer, read_offer
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


class Scripted(Link):
    """A device that takes a release and ends as `fate` says, or raises it."""

    def __init__(self, device: Device, fate: str | FleetError, offer: Offer, log: Callable[[str, str], None]) -> None:
        super().__init__(device)
        self._fate, self._offer, self._log = fate, offer, log
        self._asked = False

    def agent(self, *words: str, stdin: Iterable[bytes] = ()) -> str:
        for _ in stdin:
            pass
        self._log(self.device.name, words[0])
        if isinstance(self._fate, FleetError):
            raise self._fate
        self._asked = self._asked or words[0] == "request"
        digest = self._offer.descriptor.digest
        document: dict[str, Any] = {
            "asked": False, "offset": 0, "whole": False, "sending": False, "on_trial": False, "free": 1 << 40,
            "reclaimable": 0, "failed": {digest: "it broke"} if self._asked and self._fate == "bad" else {},
        }  # fmt: skip
        if self._asked and self._fate == "good":
            document["good"] = {"digest": digest}
        return json.dumps({"content": {}, "status": {"on_trial": False, "last": ""}}.get(words[0], document))


class Log:
    """Which device was told what, in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def __call__(self, device: str, word: str) -> None:
        with self._lock:
            self.entries.append((device, word))

    def requested(self) -> list[str]:
        return [device for device, word in self.entries if word == "request"]


def roll(
    makers: Makers,
    fates: dict[str, str | FleetError],
    *,
    canaries: tuple[str, ...] = (),
    pins: dict[str, int] | None = None,
    **rules: Any,
) -> tuple[Report, Log]:
    offer, log = read_offer(makers.release(3)), Log()
    devices = [
        Device(name=name, address="x", known_hosts=Path("x"), pin=(pins or {}).get(name)) for name in fates
    ]  # fmt: skip
    rules = {"parallel": 1, "patience": Patience(retry_s=0, wait_s=5), **rules}
    report = roll_out(
        devices,
        offer,
        Rollout(**rules),
        lambda *_, **__: None,
        canaries=canaries,
        reach=lambda device: Scripted(device, fates[device.name], offer, log),
    )
    return report, log


def endings(report: Report) -> list[str]:
    return [outcome.ending for outcome in report.outcomes]


def test_rest_is_stopped_above_the_share(makers: Makers) -> None:
    fates: dict[str, str | FleetError] = {f"d{number}": "good" if number < 2 else "bad" for number in range(10)}
    report, log = roll(makers, fates, max_failures=Failures(share=0.2))
    assert report.aborted == "3 of 10 devices failed"
    assert endings(report).count("failed") == 3
    assert endings(report).count("untouched") == 10 - len(log.requested())
    assert len(log.requested()) <= 5
    report, log = roll(makers, fates, max_failures=Failures(share=0.8))
    assert (report.aborted, len(log.requested())) == ("", 10)


def test_unreachable_device_stops_nobody_but_an_unreachable_canary_does(makers: Makers) -> None:
    off = OfflineError("connection refused")
    report, _ = roll(makers, {"a": off, "b": "good", "c": FleetError("no key")})
    assert (endings(report), report.aborted) == (["unreachable", "permanent", "unreachable"], "")
    report, log = roll(makers, {"a": off, "b": "good"}, canaries=("a",))
    assert (endings(report), report.aborted) == (["unreachable", "untouched"], "1 of 1 canaries failed")
    assert log.requested() == []


def test_canaries_must_prove_it_whatever_may_fail(makers: Makers) -> None:
    report, log = roll(
        makers, {"a": "bad", "b": "bad", "c": "good"}, canaries=("a", "b"), max_failures=Failures(count=5)
    )
    assert (endings(report), report.aborted) == (["failed", "failed", "untouched"], "no canary proved the release")
    assert sorted(log.requested()) == ["a", "b"]
    report, _ = roll(
        makers, {"a": "bad", "b": "good", "c": "good"}, canaries=("a", "b"), max_failures=Failures(count=1)
    )
    assert (endings(report), report.aborted) == (["failed", "permanent", "permanent"], "")


def test_pinned_device_is_never_asked(makers: Makers) -> None:
    report, log = roll(makers, {"a": "good", "b": "good", "c": "good"}, pins={"a": 2, "b": 3}, canaries=("a",))
    assert endings(report) == ["pinned", "permanent", "permanent"]
    assert "a" not in {device for device, _ in log.entries}


def test_refusal_counts_and_leaves_the_rest(makers: Makers) -> None:
    report, _ = roll(makers, {"a": RefusedError("no room"), "b": RefusedError("no room")})
    assert (sorted(endings(report)), report.aborted) == (["refused", "untouched"], "1 of 2 devices failed")


def test_interrupt_ends_the_waiting_for_a_device(makers: Makers) -> None:
    offer, log = read_offer(makers.release(3)), Log()
    devices = [Device(name=name, address="x", known_hosts=Path("x")) for name in ("a", "b")]
    waiting = threading.Event()

    def reach(device: Device) -> Link:
        if device.name == "b":
            assert waiting.wait(30)
            raise KeyboardInterrupt
        return Scripted(device, OfflineError("off"), offer, log)

    def tell(device: str, stage: str, words: str = "", *, done: int = 0, total: int = 0) -> None:
        if stage == "waiting":
            waiting.set()

    rules = Rollout(patience=Patience(retry_s=1000, wait_s=1000))
    with pytest.raises(KeyboardInterrupt):
        roll_out(devices, offer, rules, tell, canaries=(), reach=reach)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("push")]


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
    offer, log = read_offer(release), Log()
    script = {name: Scripted(Device(name=name, address="x", known_hosts=tmp_path), "good", offer, log)
              for name in ("gate-1", "gate-2", "yard-1")}  # fmt: skip
    monkeypatch.setattr(Link, "agent", lambda self, *words, **more: script[self.device.name].agent(*words, **more))
    monkeypatch.setattr(Link, "shell", lambda self, words: " ".join(words))
    commands = shown_commands("docs/fleet.md")
    assert len(commands) == 5
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"
    assert sorted(log.requested()) == ["gate-1", "gate-2", "yard-1"]
    assert log.requested()[0] == "gate-1"


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
