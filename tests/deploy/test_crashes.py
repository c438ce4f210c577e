"""The agent stopped at every file-system call, by a kill, a power cut or a full disk: the device stays whole.

The points come from a recording of the run itself, not from a list made by hand. Three runs are cut: an activation,
the look that makes a version permanent, and the look that goes back.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.conftest import Bench
from tests.deploy.crash_model import CHANGES, Call, Tree, crash_states, lay_out, read_calls

from edgeseg.deploy.agent.device import Clock
from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.agent.upload import Uploads

_MUTATES = re.compile(r"O_CREAT|O_TRUNC|O_WRONLY|O_RDWR")


def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    probe = ["strace", "-o", "/dev/null", "-e", "inject=getuid:signal=KILL:when=999", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_trace(), reason="strace is not installed, or this machine forbids tracing")


def tell(figures: str) -> None:
    """Say what a heavy test covered (`pytest -rP` shows it)."""
    sys.stdout.write(figures + "\n")


RUNS = ("activate", "permanent", "back")


@dataclass
class Stage:
    """A device just before a run, and the versions that it may run after a cut."""

    bench: Bench
    run: str
    arguments: tuple[str | Path, ...]

    @property
    def command(self) -> list[str]:
        return self.bench.command(*self.arguments)


@pytest.fixture
def stage(bench: Bench) -> Callable[[str], Stage]:
    """Make a device with version 1 permanent, and 2 about to be activated, made permanent or rolled back."""
    bench.clock = Clock("untrusted")  # type: ignore[assignment]  # the program has no other

    def make(run: str) -> Stage:
        bench.set(probation_s=0, start_s=1e6)
        agent = bench.agent()
        agent.activate(bench.makers.release(1))
        bench.tell()
        assert "is permanent" in agent.look()
        release = bench.makers.release(2)
        if run == "activate":
            return Stage(bench, run, ("activate", release))
        agent.activate(release)
        agent.guard()
        bench.tell(told_s=bench.clock.monotonic() + 5, golden=0.0 if run == "back" else 1.0)
        return Stage(bench, run, ("look",))

    return make


def freshen(stage: Stage) -> None:
    """Let the service report as it would go on doing while a test takes its time."""
    if stage.run != "activate":
        bench, slots = stage.bench, stage.bench.agent().slots
        second = slots.descriptor("b")
        golden = 0.0 if stage.run == "back" else 1.0
        assert second is not None
        bench.tell(release=second.digest, golden=golden, told_s=bench.clock.monotonic())


def record(stage: Stage, folder: Path) -> Path:
    """Do the run on a copy-to-be-restored of the device, and return its recording."""
    trace = folder / "trace"
    freshen(stage)
    command = ["strace", "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={CHANGES}", "-o", str(trace)]
    done = subprocess.run([*command, *stage.command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return trace


class Backup:
    """The device before the run, to return to."""

    def __init__(self, root: Path) -> None:
        self._root, self._copy = root, root.with_name("backup")
        shutil.copytree(root, self._copy, symlinks=True)

    @property
    def path(self) -> Path:
        return self._copy

    def restore(self) -> None:
        shutil.rmtree(self._root)
        shutil.copytree(self._copy, self._root, symlinks=True)


def assert_whole(stage: Stage, *, repeat: bool = True, rebooted: bool = False) -> int:
    """Check that what would start now is whole and says so, then that the device still gets where it was going."""
    bench = stage.bench
    assert bench.version() in (1, 2)  # before anything is mended
    if rebooted:
        bench.agent().guard()
    status = bench.status()
    for key in ("current", "good"):
        assert status[key]["whole"]
        assert status[key]["version"] in (1, 2)
    assert status["good"]["version"] == 1 or stage.run == "permanent"
    if repeat:
        finish(stage, status)
    return int(status["current"]["version"])


def finish(stage: Stage, status: dict[str, Any]) -> None:
    """Do the rest of what was cut, and check that it gets there."""
    bench, agent = stage.bench, stage.bench.agent()
    if stage.run == "back":
        if status["on_trial"]:
            bench.tell(golden=0.0)
            agent.look()
    elif status["good"]["version"] == 1:
        assert not status["failed"], status["failed"]
        agent.activate(bench.makers.release(2))  # does nothing if it is on trial already
        bench.tell()
        assert "is permanent" in agent.look()
    status, version = bench.status(), 1 if stage.run == "back" else 2
    assert (status["current"]["version"], status["good"]["version"]) == (version, version)
    assert status["current"]["whole"]


def kill_points(trace: Path, root: Path) -> list[tuple[str, int]]:
    """Return (call, how many of its name came before it plus one) for each call that changes the device."""
    points, count = [], Counter[str]()
    process = trace.read_text(encoding="ascii").split(" ", 1)[0]
    inside = "".join(f"\\x{byte:02x}" for byte in str(root).encode())
    for line in trace.read_text(encoding="ascii").splitlines():
        pid, _, rest = line.partition(" ")
        name = rest.strip().partition("(")[0]
        if pid != process or not name.isidentifier():
            continue
        count[name] += 1
        if inside in rest and (name != "openat" or _MUTATES.search(rest)):
            points.append((name, count[name]))
    return points


def spread(items: list[tuple[str, int]], number: int) -> list[tuple[str, int]]:
    return items[:: max(1, len(items) // number)][:number]


def test_recording_sees_every_step(stage: Callable[[str], Stage], tmp_path: Path) -> None:
    here = stage("activate")
    points = kill_points(record(here, tmp_path), here.bench.config.root)
    names = Counter(name for name, _ in points)
    assert names["fsync"] > 10
    assert names["rename"] >= 3
    assert names["symlink"] >= 2
    assert names["write"] > 5


def kill_everywhere(stage: Stage, folder: Path, number: int | None) -> Counter[int]:
    root = stage.bench.config.root
    backup = Backup(root)
    points = kill_points(record(stage, folder), root)
    outcomes = Counter[int]()
    for name, when in points if number is None else spread(points, number):
        backup.restore()
        freshen(stage)
        inject = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject={name}:signal=KILL:when={when}"]
        killed = subprocess.run([*inject, *stage.command], capture_output=True, check=False)
        assert killed.returncode == -9 or killed.returncode == 137, (name, when, killed)
        outcomes[assert_whole(stage)] += 1
    return outcomes


@pytest.mark.parametrize(("run", "number"), [("activate", 10), ("permanent", 5), ("back", 5)])
def test_kill_at_spread_points(stage: Callable[[str], Stage], tmp_path: Path, run: str, number: int) -> None:
    outcomes = kill_everywhere(stage(run), tmp_path, number)
    assert sum(outcomes.values()) == number


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("run", RUNS)
def test_kill_at_every_point(stage: Callable[[str], Stage], tmp_path: Path, run: str) -> None:
    outcomes = kill_everywhere(stage(run), tmp_path, None)
    tell(f"{run}: killed at {sum(outcomes.values())} points; versions that ran: {dict(outcomes)}")
    assert sum(outcomes.values()) > 10


def fail_everywhere(stage: Stage, folder: Path, number: int | None) -> int:
    root = stage.bench.config.root
    backup = Backup(root)
    points = kill_points(record(stage, folder), root)
    done = 0
    for name, when in points if number is None else spread(points, number):
        backup.restore()
        freshen(stage)
        error = "EIO" if name in ("fsync", "rename") else "ENOSPC"
        inject = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject={name}:error={error}:when={when}"]
        ended = subprocess.run([*inject, *stage.command], capture_output=True, text=True, check=False)
        if ended.returncode:
            assert ended.returncode == 1
            assert ended.stderr.startswith("error: "), ended.stderr
            assert ended.stderr.count("\n") == 1, ended.stderr
        if stage.run == "permanent" and stage.bench.status()["failed"]:
            assert_whole(stage, repeat=False)  # it could not be recorded, and went back: safe as well
        else:
            assert_whole(stage)
        done += 1
    return done


@pytest.mark.parametrize(("run", "number"), [("activate", 8), ("permanent", 3), ("back", 3)])
def test_disk_error_at_spread_points(stage: Callable[[str], Stage], tmp_path: Path, run: str, number: int) -> None:
    assert fail_everywhere(stage(run), tmp_path, number) == number


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("run", RUNS)
def test_disk_error_at_every_point(stage: Callable[[str], Stage], tmp_path: Path, run: str) -> None:
    tell(f"{run}: an error at each of {fail_everywhere(stage(run), tmp_path, None)} points")


# Power cuts.


class NextBoot(Clock):
    """The clock after a power cut."""

    def boot_id(self) -> str:
        return "the boot after"


@dataclass
class Recorded:
    stage: Stage
    before: Path
    calls: list[Call]

    def states(self, keep: Callable[[Call], bool] = lambda call: True) -> Iterator[tuple[int, Tree]]:
        """Yield what a power cut can leave; with `keep`, of a run that left out some calls."""
        # The model knows paths by the root that was recorded, and content by the backup.
        root = self.stage.bench.config.root
        shutil.rmtree(root)
        shutil.copytree(self.before, root, symlinks=True)
        yield from crash_states(root, [call for call in self.calls if keep(call)])


@pytest.fixture
def recorded(stage: Callable[[str], Stage], tmp_path: Path) -> Callable[[str], Recorded]:
    def make(run: str) -> Recorded:
        here = stage(run)
        backup = Backup(here.bench.config.root)
        return Recorded(here, backup.path, read_calls(record(here, tmp_path)))

    return make


def boot(stage: Stage, tree: Tree) -> tuple[Stage, Path]:
    """Return the device that wakes up with `tree` on its disk."""
    root = Path(tempfile.mkdtemp(dir=stage.bench.folder))
    lay_out(tree, root)
    bench = copy.copy(stage.bench)
    bench.config = replace(bench.config, root=root)
    bench.clock = NextBoot("untrusted")  # type: ignore[assignment]
    bench.config.health.unlink(missing_ok=True)
    return replace(stage, bench=bench), root


def survives(stage: Stage, tree: Tree) -> str | None:
    """Return what is wrong with the device after a power cut that left `tree`, or None."""
    woken, root = boot(stage, tree)
    try:
        assert_whole(woken, rebooted=True)
    except (AssertionError, AgentError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(root)
    return None


@pytest.mark.parametrize(("run", "number"), [("activate", 60), ("permanent", 20), ("back", 20)])
def test_power_cut_at_spread_points(recorded: Callable[[str], Recorded], run: str, number: int) -> None:
    recording = recorded(run)
    states = list(recording.states())
    for count, tree in states[:: max(1, len(states) // number)]:
        wrong = survives(recording.stage, tree)
        assert wrong is None, f"after {count} calls: {wrong}"


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("run", RUNS)
def test_power_cut_at_every_point(recorded: Callable[[str], Recorded], run: str) -> None:
    recording = recorded(run)
    states = list(recording.states())
    tell(f"{run}: {len(states)} disks that a power cut during {len(recording.calls)} calls can leave")
    wrong = [(count, found) for count, tree in states if (found := survives(recording.stage, tree))]
    assert wrong == []


@pytest.mark.parametrize("left_out", ["files", "folders"])
def test_model_finds_the_harm_of_left_out_syncs(recorded: Callable[[str], Recorded], left_out: str) -> None:
    recording = recorded("activate")
    folders = {call.arguments[1] for call in recording.calls if "O_DIRECTORY" in "".join(call.arguments[2:3])}

    def keep(call: Call) -> bool:
        return call.name != "fsync" or (call.arguments[0] in folders) == (left_out == "files")

    assert any(survives(recording.stage, tree) for _, tree in list(recording.states(keep))[-12:])


def test_power_cut_during_an_upload_never_leaves_a_part_under_the_name(bench: Bench, tmp_path: Path) -> None:
    release, root, trace = bench.makers.release(1), bench.config.root, tmp_path / "trace"
    data = release.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    root.mkdir()
    before = Backup(root)
    command = ["strace", "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={CHANGES}", "-o", str(trace)]
    command += bench.command("receive", sha256, "--size", str(len(data)))
    assert subprocess.run(command, input=data, capture_output=True, check=False).returncode == 0
    before.restore()
    states = list(crash_states(root, read_calls(trace)))
    assert {tree.get(f"incoming/{sha256}.release", data) for _, tree in states} == {data}
    for _, tree in states:
        shutil.rmtree(root)
        root.mkdir()
        lay_out(tree, root)
        uploads = Uploads(bench.config)
        for _ in range(2):  # what was left may be damaged: then it is dropped, and the next push sends all of it
            offset = uploads.offset(sha256)
            with contextlib.suppress(AgentError):
                uploads.receive(io.BytesIO(data[offset:]), sha256=sha256, size=len(data), offset=offset)
        assert uploads.path(sha256).read_bytes() == data
