"""Power cuts of an emulated device in the middle of an update, each from the same saved state.

The device has version 1 permanent and version 2 uploaded. A cut restores it, starts the activation (the agent's own
commands, without systemd), pulls the plug after a part of the time that it takes, and lets the disk keep what was
flushed and some of the rest. Then the device starts again and is asked what it runs.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.deploy.qemu.device import AGENT, await_permanent, build_image, status
from tests.deploy.qemu.machine import Machine, plain_drive
from tests.deploy.qemu.system import System
from tests.deploy.qemu.volatile import Loss, await_requests, logged_drive, lose, read_log

from edgeseg.runtime.files import write_json

SPEAK = """
import json, os, time
ears, frames = os.fdopen(int(os.environ["EDGESEG_LIVENESS"]), "w", buffering=1), 0
while True:
    frames += 1
    ears.write(json.dumps({"stage": "capture", "state": "flowing", "frames": frames}) + "\\n")
    for stage in ("inference", "sinks"):
        ears.write(json.dumps({"stage": stage}) + "\\n")
    time.sleep(1)
"""
SETTINGS: dict[str, Any] = {
    "prepare": [["sh", "-c", "cp bundle/model.fp32.onnx prepared/engine"]],
    "build": [],
    "serve": ["/usr/bin/python3", "-c", SPEAK],
    "probation_s": 1,
    "start_s": 900,
    "reserve_mb": 16,
}
OFTEN = b"[Timer]\nOnUnitInactiveSec=\nOnUnitInactiveSec=2\n"
KEEPS = (0.0, 0.5, 0.5, 1.0)
"""How likely a request that was not flushed is kept, in turn."""
MOMENTS = ("time", "requests")
LONGER = 1.3
"""A busy machine emulates more slowly than it did when the activation was measured."""
BOOT_S = 900
HELPER = Path(__file__).parent / "on_device.py"
ON_DEVICE = (
    AGENT.replace("python3 /opt", "python3 /opt/on_device.py /opt") + " /etc/edgeseg/agent.json /opt/new.release"
)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One cut: when, what the disk lost, how far the update had come, and what became of the device."""

    index: int
    by: str
    """The moment was drawn from the activation's `time`, or from its disk `requests`, many of which come close
    together; `replay` is a moment of one activation that was logged whole, `index` its requests by then."""
    after_s: float | None
    keep: float
    durable: int
    pending: int
    lost: int
    torn: int
    boot: str
    """How the device was started again: `systemd`, in full; `device`, a kernel and the agent's own step of a boot; or
    `disk`: this machine's kernel recovers the disk, and the agent's own step of a boot is done on it here."""
    step: str
    ran: int
    """The version that the device says it runs, after the boot; every byte of it was compared with what was signed."""
    said: str
    """The agent's word on what starts."""
    ended_on: int
    """The version at the end of the update, resumed or asked for again."""


class PowerCuts:
    """The device and its saved states, in `folder`, which should be in memory: about 2 GB.

    What is there from an earlier session is used again.
    """

    def __init__(self, folder: Path, system: System, old: Path, new: Path, signer: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._system = folder, system
        self._initrd, self._base = folder / "initrd.gz", folder / "device.img"
        self._state, self._boot_state = folder / "running.state", folder / "boot.state"
        self._helper: subprocess.Popen[str] | None = None
        facts = folder / "ready.json"
        if not facts.exists():
            self._prepare(old, new, signer)
            write_json(facts, self._measure())
        self.whole: dict[str, float] = json.loads(facts.read_bytes())

    def cut(self, index: int, boot: str) -> Cut:
        """Make cut number `index`. Raises `AssertionError` if the device does not run a whole, known version."""
        chance = random.Random(index)
        by, share, keep = MOMENTS[index % len(MOMENTS)], chance.random(), KEEPS[index // 2 % len(KEEPS)]
        running, log, after = (self._folder / name for name in ("running.img", "log", "after.img"))
        with self._restored(running, log) as machine:
            began = time.monotonic()
            machine.send("update")
            if by == "time":
                time.sleep(LONGER * share * self.whole["seconds"])
            else:
                await_requests(log, math.ceil(share * self.whole["requests"]), BOOT_S)
            after_s = round(time.monotonic() - began, 2)
        loss = lose(self._base, log, after, chance, keep=keep)
        answer = {"disk": self._mounted, "device": self._quick, "systemd": self._booted}[boot](after)
        return _judge(index, by, after_s, keep, loss, boot, answer)

    def replay(self, count: int, keep: float) -> Cut:
        """Like `cut`, at the moment when the disk had seen `count` requests of one activation that was logged whole."""
        after = self._folder / "after.img"
        loss = lose(self._base, self._folder / "whole.log", after, random.Random(count), keep=keep, count=count)
        return _judge(count, "replay", None, keep, loss, "disk", self._mounted(after))

    def lose_unsynced(self) -> dict[str, bytes | None]:
        """Write a file and sync it, write another, pull the plug, and return what is left of each (None: no file)."""
        running, log, after = (self._folder / name for name in ("running.img", "log", "after.img"))
        subprocess.run(["cp", self._base, running], check=True)
        with self._machine(logged_drive(running, log), saved=self._boot_state) as machine:
            machine.send("")
            machine.expect("@ready", BOOT_S)
            machine.run("cd /var/lib && echo old >synced && echo old >unsynced && sync")
            machine.run("echo new >synced.new && sync synced.new && mv synced.new synced && sync .")
            machine.run("echo new >unsynced.new && mv unsynced.new unsynced && echo new >never")
        lose(self._base, log, after, random.Random(0), keep=1)
        with _recovered(after, self._folder / "mounted") as place:
            found = {name: place / "var/lib" / name for name in ("synced", "unsynced", "never")}
            return {name: path.read_bytes() if path.exists() else None for name, path in found.items()}

    def close(self) -> None:
        """End the helper on this machine."""
        if self._helper is not None:
            self._helper.kill()
            self._helper.communicate()

    def _mounted(self, disk: Path) -> dict[str, Any]:
        """Let this machine's kernel recover the disk, and the agent start on it here."""
        with _recovered(disk, self._folder / "mounted") as place:
            if self._helper is None:
                self._helper = self._start_helper(place)
            assert self._helper.stdin is not None and self._helper.stdout is not None
            self._helper.stdin.write("after-cut\n")
            self._helper.stdin.flush()
            answer: dict[str, Any] = json.loads(self._helper.stdout.readline().removeprefix("@said "))
            return answer

    def _start_helper(self, place: Path) -> subprocess.Popen[str]:
        settings, agent, release = (self._folder / name for name in ("host.json", "agent", "new.release"))
        etc = {name: str(place / "etc/edgeseg" / name) for name in ("allowed_signers", "revoked_keys")}
        here = {"root": str(place / "var/lib/edgeseg"), "health": str(self._folder / "health.json")}
        write_json(settings, {**SETTINGS, **etc, **here, "restart": ["true"]})
        shutil.copytree(place / "opt/edgeseg/agent", agent, dirs_exist_ok=True)
        shutil.copy(place / "opt/new.release", release)
        words = [sys.executable, "-I", str(HELPER), str(agent), str(settings), str(release)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _quick(self, disk: Path) -> dict[str, Any]:
        """Boot `disk` without systemd: a kernel that has never seen it, and the agent's own step."""
        with self._machine(plain_drive(disk), saved=self._boot_state) as machine:
            machine.send("")
            machine.expect("@ready", BOOT_S)
            machine.send(ON_DEVICE)
            answer: dict[str, Any] = _ask(machine, "after-cut")
            return answer

    def _booted(self, disk: Path) -> dict[str, Any]:
        """Boot `disk` with systemd and all units, and see the update to its end."""
        with self._machine(plain_drive(disk)) as machine:
            machine.expect("@ready", BOOT_S)
            seen = machine.run("cd /var/lib/edgeseg && find . -maxdepth 3 -printf '%P -> %l\\n'", BOOT_S)
            machine.run("until systemctl is-active -q edgeseg; do sleep 1; done", BOOT_S)
            said = machine.run("journalctl -b -u edgeseg-guard -t python3 -o cat --no-pager | tail -1", BOOT_S)
            found = status(machine)
            machine.run("while [ -e /var/lib/edgeseg/request ]; do sleep 1; done", BOOT_S)
            if status(machine)["current"]["version"] == 1:
                size, sha256 = machine.run("stat -c %s /opt/new.release; sha256sum </opt/new.release").split()[:2]
                machine.run(f"{AGENT} receive {sha256} --size {size} </opt/new.release")
                machine.run(f"{AGENT} request {sha256}")
            end = await_permanent(machine, 2, BOOT_S)
            files = [line.removesuffix(" -> ") for line in seen.splitlines()]
            return {"files": files, "said": said, "found": found, "end": end}

    def _prepare(self, old: Path, new: Path, signer: Path) -> None:
        self._system.initrd(self._folder)
        extra = {
            "opt/new.release": new.read_bytes(),
            "opt/on_device.py": HELPER.read_bytes(),
            "etc/systemd/system/edgeseg-probation.timer.d/often.conf": OFTEN,
        }
        build_image(self._folder, self._system, release=old, signer=signer, settings=SETTINGS, extra=extra)
        with self._machine(plain_drive(self._base), append="init=/usr/sbin/quick-init test.wait") as machine:
            machine.expect("@waiting", BOOT_S)
            machine.save(self._boot_state)
        with self._machine(plain_drive(self._base), saved=self._boot_state) as machine:
            machine.send("")
            machine.expect("@ready", BOOT_S)
            # The same agent, compiled, for the sake of time.
            machine.run("cd /opt/edgeseg && python3 -m zipfile -e agent unpacked && rm agent && mv unpacked agent")
            machine.run("python3 -m compileall -q /opt/edgeseg/agent", BOOT_S)
            machine.send(ON_DEVICE)
            assert "is permanent" in _ask(machine, "install")
            _ask(machine, "upload")
            machine.send("\x04")  # the end of its input
            machine.run("sync; sleep 1")
            machine.send(ON_DEVICE)
            _ask(machine, "hello")
            machine.save(self._state)

    def _measure(self) -> dict[str, float]:
        """Return how many seconds and disk requests it takes from the request to a permanent version 2, uncut."""
        log = self._folder / "whole.log"
        with self._restored(self._folder / "running.img", log) as machine:
            began = time.monotonic()
            assert "version 2" in _ask(machine, "update")
            return {"seconds": time.monotonic() - began, "requests": len(read_log(log))}

    def _restored(self, disk: Path, log: Path) -> Machine:
        subprocess.run(["cp", self._base, disk], check=True)
        machine = self._machine(logged_drive(disk, log), saved=self._state)
        _ask(machine, "hello")
        return machine

    def _machine(self, drives: list[str], *, append: str = "", saved: Path | None = None) -> Machine:
        kernel = self._system.kernel
        return Machine(
            self._folder, kernel=kernel, initrd=self._initrd, drives=drives, append=append, saved=saved, memory_mb=384
        )


def _ask(machine: Machine, word: str) -> Any:
    machine.send(word)
    return json.loads(machine.expect(r"@said (.*?)\r?\n", BOOT_S)[1])


@contextmanager
def _recovered(disk: Path, place: Path) -> Iterator[Path]:
    """Mount `disk`, which this machine's kernel recovers as a device's would."""
    place.mkdir(exist_ok=True)
    attach = ["losetup", "--find", "--show", str(disk)]
    loop = subprocess.run(attach, capture_output=True, text=True, check=True).stdout.strip()
    try:
        # What is remembered of the number's last user would be read for this disk.
        subprocess.run(["blockdev", "--flushbufs", loop], check=True)
        subprocess.run(["mount", "-o", "nodev,nosuid", loop, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def _judge(
    index: int, by: str, after_s: float | None, keep: float, loss: Loss, boot: str, answer: dict[str, Any]
) -> Cut:
    return Cut(
        index=index, by=by, after_s=after_s, keep=keep, **asdict(loss), boot=boot,
        step=_step(answer["files"]), ran=_whole_version(answer["found"]), said=answer["said"],
        ended_on=_whole_version(answer["end"]),
    )  # fmt: skip


def _whole_version(found: dict[str, Any]) -> int:
    current = found["current"]
    assert current["whole"], found
    assert found["good"]["whole"], found
    return int(current["version"])


def _step(files: list[str]) -> str:
    """Return how far the update had come, by what the disk held before anything repaired it."""
    links = [f"{name} -> slots/b" in files for name in ("current", "good")]
    if all(links):
        return "permanent, its record open" if "trial.json" in files else "permanent"
    if any(links):
        return "on trial"
    for name, step in (
        ("trial.json", "trial recorded"), ("slots/b/seal.json", "sealed"), ("slots/b/prepared", "preparing"),
        ("slots/b", "unpacked"), ("slots/b.partial", "unpacking"), ("request", "asked for"),
    ):  # fmt: skip
        if name in files:
            return step
    return "not asked for yet"
