"""One device over a real SSH connection: what is sent, what interrupts it, and what is refused."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.deploy.conftest import Bench, Makers
from tests.deploy.fleet.bench import Fleet, FleetDevice, NearLink
from tests.deploy.fleet.conftest import BIG

from edgeseg.deploy.agent import push as agent_push
from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.fleet.errors import OfflineError
from edgeseg.deploy.fleet.link import Link
from edgeseg.deploy.fleet.offer import Offer, read_offer
from edgeseg.deploy.push import Outcome, Patience, Push


class Ear:
    """Keeps what a push tells; `on` is called at the first telling of a stage."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.on: dict[str, threading.Event] = {}

    def __call__(self, device: str, stage: str, words: str = "", *, done: int = 0, total: int = 0) -> None:
        self.stages.append(stage)
        self.on.setdefault(stage, threading.Event()).set()


def push_one(
    fleet: Fleet,
    device: FleetDevice,
    release: Path,
    *,
    ear: Ear | None = None,
    retry_s: float = 60,
    near: type[NearLink] | None = None,
) -> Outcome:
    link = near(device) if near else Link(device.inventory(fleet.known_hosts, identity=fleet.keys / "person"))
    return Push(link, read_offer(release), Patience(retry_s=retry_s, wait_s=60), ear or Ear()).run()


def test_only_what_changed_is_sent_and_a_second_push_does_nothing(fleet: Fleet, big: dict[int, Path]) -> None:
    device = fleet.add("one")
    first = push_one(fleet, device, big[1], near=NearLink)
    assert (first.ending, first.sent_bytes) == ("permanent", big[1].stat().st_size)
    second = push_one(fleet, device, big[2])
    assert second.ending == "permanent"
    assert 9000 < second.sent_bytes < device.line.received < BIG / 5
    assert device.bench.version() == 2
    again = push_one(fleet, device, big[2], near=NearLink)
    assert (again.ending, again.detail, again.sent_bytes) == ("unchanged", "permanent already: nothing done", 0)


def test_cut_upload_goes_on_where_it_stopped(fleet: Fleet, big: dict[int, Path]) -> None:
    device, ear, size = fleet.add("one"), Ear(), big[1].stat().st_size
    cut_at = BIG * 3 // 4

    def cut(came: int) -> None:
        if came > cut_at:
            device.await_upload(1 << 20)
            device.line.cut_once()

    device.line.on_block = cut
    outcome = push_one(fleet, device, big[1], ear=ear)
    assert outcome.ending == "permanent"
    assert "waiting" in ear.stages
    assert size < device.line.received < cut_at + size - (1 << 20) + 100_000


def test_rotten_file_in_a_slot_is_not_built_upon(fleet: Fleet, big: dict[int, Path]) -> None:
    device = fleet.add("one")
    device.bench.agent().activate(big[1])
    device.bench.agent().guard()
    device.bench.live(100)
    rotten = device.bench.config.root / "slots" / "a" / "wheelhouse" / "engine"
    rotten.write_bytes(b"x" * BIG)
    assert push_one(fleet, device, big[2], near=NearLink).ending == "permanent"
    assert device.bench.version() == 2


def test_what_a_power_cut_left_of_an_upload_is_sent_again(fleet: Fleet, big: dict[int, Path]) -> None:
    device, offer = fleet.add("one"), read_offer(big[1])
    (device.bench.config.root / "incoming").mkdir()
    (device.bench.config.root / "incoming" / f"{offer.sha256}.partial").write_bytes(bytes(50_000))
    outcome = push_one(fleet, device, big[1], near=NearLink)
    assert (outcome.ending, outcome.sent_bytes) == ("permanent", 2 * offer.size - 50_000)


@pytest.mark.parametrize(("known", "found"), [(False, "is not known"), (True, "has changed")])
def test_wrong_host_key_is_one_clear_line_with_the_fix(
    fleet: Fleet, big: dict[int, Path], known: bool, found: str
) -> None:
    device = fleet.add("one")
    other = (fleet.keys / "two.pub").read_text("utf-8")
    fleet.known_hosts.write_text(f"[127.0.0.1]:{device.line.port} {other}" if known else "", "utf-8")
    outcome = push_one(fleet, device, big[1])
    assert outcome.ending == "unreachable"
    assert found in outcome.detail
    assert f"fix: {'if it was set up anew, ssh-keygen -R' if known else 'ssh-keyscan -p'}" in outcome.detail
    assert f"ssh-keyscan -p {device.line.port} 127.0.0.1 >> {fleet.known_hosts}" in outcome.detail
    assert "\n" not in outcome.detail


def test_stranger_may_not_log_in_and_a_missing_agent_is_named(fleet: Fleet, big: dict[int, Path]) -> None:
    device = fleet.add("one")
    device.script.write_text("exec /nowhere/agent", "utf-8")
    assert "no agent on the device" in push_one(fleet, device, big[1]).detail
    device.script.write_text("exit 2", "utf-8")
    assert "install the agent of this edgeseg there" in push_one(fleet, device, big[1]).detail
    fleet.keys = fleet.keys / "nowhere"
    assert "may not log in to [127.0.0.1]" in push_one(fleet, device, big[1]).detail


def test_room_is_asked_for_before_the_first_byte(fleet: Fleet, big: dict[int, Path]) -> None:
    device = fleet.add("one")
    device.bench.set(reserve_mb=1 << 40)
    device.write_script()
    outcome = push_one(fleet, device, big[1], near=NearLink)
    assert (outcome.ending, outcome.sent_bytes) == ("refused", 0)
    assert "MB more; fix: free some space" in outcome.detail


@pytest.fixture
def small_disk(fleet: Fleet) -> Iterator[FleetDevice]:
    device = fleet.add("one")
    root = device.bench.config.root
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(root)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        yield device
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_disk_that_fills_up_during_the_upload_keeps_no_file_under_its_name(
    fleet: Fleet, small_disk: FleetDevice, big: dict[int, Path]
) -> None:
    filler = small_disk.bench.config.root / "filler"

    def fill(came: int) -> None:
        if came > BIG * 3 // 4 and not filler.exists():
            small_disk.await_upload(1 << 20)
            with filler.open("wb", buffering=0) as stream, suppress(OSError):
                while True:
                    stream.write(bytes(1 << 12))

    small_disk.line.on_block = fill
    outcome = push_one(fleet, small_disk, big[1])
    assert (outcome.ending, "No space left" in outcome.detail) == ("refused", True), outcome
    assert not list(small_disk.bench.config.root.glob("incoming/*.release"))
    filler.unlink()
    again = push_one(fleet, small_disk, big[1], near=NearLink)
    assert again.ending == "permanent"
    assert again.sent_bytes < BIG * 0.9  # what was written was kept


def test_device_that_is_off_is_tried_again_then_reported(fleet: Fleet, big: dict[int, Path]) -> None:
    device, ear = fleet.add("one"), Ear()
    device.line.refuse = 1
    assert push_one(fleet, device, big[1], ear=ear).ending == "permanent"
    assert ear.stages[:3] == ["asking", "waiting", "uploading"]
    device.line.down = True
    outcome = push_one(fleet, device, big[2], retry_s=0)
    assert outcome.ending == "unreachable"
    assert outcome.detail


def test_link_that_brings_nothing_is_given_up(fleet: Fleet, big: dict[int, Path]) -> None:
    device, ear = fleet.add("one"), Ear()

    class Broken(NearLink):
        def _run(self, words: list[str], stdin: Iterable[bytes]) -> tuple[int, str, str]:
            for _ in stdin:
                raise OfflineError("the link was lost")
            return super()._run(words, stdin)

    outcome = push_one(fleet, device, big[1], ear=ear, near=Broken, retry_s=2)
    assert (outcome.ending, outcome.detail) == ("unreachable", "the link was lost")
    assert ear.stages.count("waiting") >= 2


def test_second_pusher_waits_for_the_first_and_sends_nothing(fleet: Fleet, big: dict[int, Path]) -> None:
    device, ear = fleet.add("one"), Ear()
    ear.on["waiting"] = threading.Event()
    second: list[Outcome] = []
    helper = threading.Thread(target=lambda: second.append(push_one(fleet, device, big[1], ear=ear)))

    def hold_the_first(came: int) -> None:
        if came > BIG * 3 // 4:
            device.line.on_block = lambda _: None
            device.await_upload(1 << 20)
            helper.start()
            assert ear.on["waiting"].wait(60)

    device.line.on_block = hold_the_first
    first = push_one(fleet, device, big[1])
    helper.join(60)
    assert first.ending == "permanent"
    assert not list(device.bench.config.root.glob("incoming/*"))
    assert (second[0].ending in ("permanent", "unchanged"), second[0].sent_bytes) == (True, 0)


def test_other_release_is_refused_while_one_is_on_trial(fleet: Fleet, big: dict[int, Path]) -> None:
    device, ear = fleet.add("one"), Ear()
    device.fate = "hold"
    ear.on["on the device"] = threading.Event()
    first: list[Outcome] = []
    helper = threading.Thread(target=lambda: first.append(push_one(fleet, device, big[1], ear=ear, near=NearLink)))
    helper.start()
    assert device.on_trial.wait(60)
    refused = push_one(fleet, device, big[2], near=NearLink)
    assert (refused.ending, refused.sent_bytes) == ("refused", 0)
    assert "tiny version 1 is on trial; fix: wait for its end, or roll it back" in refused.detail
    device.let_go.set()
    helper.join(60)
    assert first[0].ending == "permanent"


def test_other_release_is_refused_while_one_is_uploaded(fleet: Fleet, big: dict[int, Path]) -> None:
    device = fleet.add("one")
    incoming = device.bench.config.root / "incoming"
    incoming.mkdir()
    with (incoming / f"{read_offer(big[1]).sha256}.partial").open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        outcome = push_one(fleet, device, big[2], near=NearLink)
    assert outcome.ending == "refused"
    assert "another sender is uploading" in outcome.detail
    assert "fix: wait until it has ended" in outcome.detail


def test_link_lost_during_the_trial_changes_nothing_for_the_device(fleet: Fleet, big: dict[int, Path]) -> None:
    device, ear = fleet.add("one"), Ear()
    device.fate = "hold"
    pushed: list[Outcome] = []
    helper = threading.Thread(target=lambda: pushed.append(push_one(fleet, device, big[1], ear=ear, retry_s=0)))
    helper.start()
    assert device.on_trial.wait(60)
    device.line.down = True
    device.line.cut()
    helper.join(60)
    assert pushed[0].ending == "lost"
    device.let_go.set()
    assert device.settled.wait(60)
    assert push_one(fleet, device, big[1], near=NearLink).ending == "unchanged"


def test_what_the_device_refuses_or_failed_is_told_with_its_reason(
    fleet: Fleet, makers: Makers, big: dict[int, Path]
) -> None:
    device = fleet.add("one")
    stranger = push_one(fleet, device, makers.release(5, key=makers.new_key("stranger")), near=NearLink)
    assert stranger.ending == "refused"
    assert "not signed by a key that is trusted here" in stranger.detail
    device.fate = "bad"
    bad = push_one(fleet, device, big[1], near=NearLink)
    assert bad.ending == "failed"
    assert "masks differ from the golden ones" in bad.detail
    again = push_one(fleet, device, big[1], near=NearLink)
    assert (again.ending, again.sent_bytes) == ("failed", 0)
    assert "failed here before: masks differ" in again.detail


_PUSHER = """
import sys
from edgeseg.runtime.cli import main
main(["deploy", "push", sys.argv[1], "--inventory", sys.argv[2], "--canaries", "none"])
"""


def killed_at(fleet: Fleet, device: FleetDevice, release: Path, point: int | None) -> int:
    """Kill a pusher when the device's `point`-th block comes in (None: never), and return how many came."""
    blocks, dead = 0, threading.Event()
    inventory = fleet.write_inventory()

    def count(_: int) -> None:
        nonlocal blocks
        blocks += 1
        if blocks - 1 == point:
            process.kill()
            dead.set()

    device.line.on_block = count
    process = subprocess.Popen(
        [sys.executable, "-c", _PUSHER, str(release), str(inventory)], stdout=subprocess.DEVNULL
    )  # fmt: skip
    process.wait(120)
    device.line.on_block = lambda _: None
    assert dead.is_set() or point is None or blocks <= point
    return blocks


def check_kills(fleet: Fleet, release: Path, points: int | None) -> None:
    """Kill the pusher at `points` of the blocks that one push takes (None: at all); each time the next one finishes."""
    count = killed_at(fleet, fleet.add("one"), release, None)
    for number in range(points or count):
        device = fleet.renew("one")
        killed_at(fleet, device, release, number if points is None else count * (number + 1) // (points + 1))
        assert not device.partial_under_final_name(read_offer(release))
        outcome = push_one(fleet, device, release, near=NearLink)
        assert outcome.ending in ("permanent", "unchanged"), outcome
        assert device.bench.version() == 1


def test_push_after_a_killed_pusher_finishes(fleet: Fleet, makers: Makers) -> None:
    check_kills(fleet, makers.release(1), 1)


@pytest.mark.heavy
@pytest.mark.timeout(7200)
def test_push_after_a_pusher_killed_at_every_block_finishes(fleet: Fleet, makers: Makers) -> None:
    check_kills(fleet, makers.release(1), None)


@pytest.mark.heavy
@pytest.mark.timeout(7200)
def test_push_after_a_pusher_killed_while_it_sends_finishes(fleet: Fleet, big: dict[int, Path]) -> None:
    check_kills(fleet, big[1], 30)


class _Pipe:
    """A descriptor that brings `data` and then stays open and silent."""

    def __init__(self, data: bytes) -> None:
        self.reader, self._writer = os.pipe()
        os.write(self._writer, data)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self._writer)


def test_dead_link_gives_the_upload_free(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_push, "_STALL_S", 0.05)
    bench.config.root.mkdir()
    pipe, sha256 = _Pipe(b"[[100]]\n" + b"x" * 40), "0" * 64
    with pytest.raises(AgentError, match="stopped at byte 40 of 100"):
        agent_push.assemble(bench.config, pipe.reader, sha256=sha256, size=100, offset=0)
    pipe.close()
    progress = agent_push.read_progress(bench.config, sha256)
    assert (progress["offset"], progress["sending"], progress["whole"]) == (40, False, False)


@pytest.mark.parametrize(
    "line", [b"", b"{}x", b"[[-1]]", b'[[5, "x"]]', b'[[5, "x", -1]]', b"[5]", b"[[true]]", b"[[]]"]
)
def test_damaged_list_of_parts_is_refused(bench: Bench, line: bytes) -> None:
    bench.config.root.mkdir()
    pipe = _Pipe(line + b"\n")
    with pytest.raises(AgentError, match="the list of parts is damaged"):
        agent_push.assemble(bench.config, pipe.reader, sha256="0" * 64, size=5, offset=0)
    pipe.close()


def test_upload_waits_while_another_release_is_being_activated(bench: Bench) -> None:
    bench.config.root.mkdir()
    (bench.config.root / "request").write_text("1" * 64)
    pipe = _Pipe(b"[[1]]\nx")
    with pytest.raises(AgentError, match="another release is being activated"):
        agent_push.assemble(bench.config, pipe.reader, sha256="0" * 64, size=1, offset=0)
    pipe.close()


@pytest.fixture(scope="session")
def installed(makers: Makers, big: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("installed"), makers)
    bench.install(1, wheelhouse=None)
    bench.agent().activate(big[2])
    return bench


@settings(max_examples=15)
@given(data=st.data())
def test_parts_make_the_release_from_any_offset_with_anything_held(
    installed: Bench, big: dict[int, Path], data: st.DataObject
) -> None:
    offer: Offer = read_offer(big[2])
    whole = big[2].read_bytes()
    offset = data.draw(st.integers(0, offer.size - 1))
    named = sorted(agent_push.read_content(installed.config))
    held = data.draw(st.sets(st.sampled_from(named)))
    sent: list[int] = []
    stream = b"".join(offer.send(held, offset, sent.append))
    assert sum(sent) == offer.missing(held, offset)
    root = installed.config.root
    (root / "incoming").mkdir(exist_ok=True)
    (root / "incoming" / f"{offer.sha256}.partial").write_bytes(whole[:offset])
    with (root / "stream").open("w+b") as file:
        file.write(stream)
        file.seek(0)
        agent_push.assemble(
            installed.config, file.fileno(), sha256=offer.sha256, size=offer.size, offset=offset
        )  # fmt: skip
    assert (root / "incoming" / f"{offer.sha256}.release").read_bytes() == whole
    (root / "incoming" / f"{offer.sha256}.release").unlink()


def test_hung_agent_is_given_up(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    device = fleet.add("one")
    device.script.write_text("exec sleep 60", "utf-8")
    monkeypatch.setattr("edgeseg.deploy.fleet.link._STALL_S", 1.5)
    with pytest.raises(OfflineError, match="hung"):
        Link(device.inventory(fleet.known_hosts, identity=fleet.keys / "person")).agent("progress")
