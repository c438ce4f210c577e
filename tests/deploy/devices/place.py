"""What a device takes of this machine: a number, an address, a network name space, a disk, a control group."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

_ROOT = Path("/var/tmp/edgeseg-devices")
_HIGHEST = 200
_GROUPS = tuple(Path("/sys/fs/cgroup") / name for name in ("systemd", "unified"))


class Place:
    """Place number N. What a killed test run left in it is removed by the next one that claims it."""

    def __init__(self, number: int, lock: IO[str], rootfs: Path, disk_mb: int) -> None:
        self._lock, self._rootfs = lock, rootfs
        self._space, self._cable = f"edgeseg-{number}", f"v-edgeseg-{number}"
        self.address, self._gateway = f"10.99.{number}.2", f"10.99.{number}.1"
        self._folder = _ROOT / str(number)
        self._image, self._disk = self._folder / "disk.img", self._folder / "disk"
        self.root, self.console = self._folder / "root", self._folder / "console.log"
        self._clear()
        for folder in (self._disk, self.root):
            folder.mkdir(parents=True)
        _call("truncate", "-s", f"{disk_mb}M", self._image)
        _call("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", self._image)
        self._make_network()

    @classmethod
    def claim(cls, rootfs: Path, disk_mb: int) -> Place:
        """Return the first place that no living process holds."""
        _ROOT.mkdir(parents=True, exist_ok=True)
        for number in range(1, _HIGHEST):
            lock = (_ROOT / f"{number}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            return cls(number, lock, rootfs, disk_mb)
        raise RuntimeError(f"{_HIGHEST} devices are running")

    def mount(self) -> None:
        """Mount the disk, and the device's file system over the shared one; nothing happens if they are."""
        if self.root.is_mount():
            return
        _call("mount", "-o", "loop", self._image, self._disk)
        upper, work = self._disk / "upper", self._disk / "work"
        for folder in (upper, work):
            folder.mkdir(exist_ok=True)
        layers = f"lowerdir={self._rootfs},upperdir={upper},workdir={work}"
        _call("mount", "-t", "overlay", "-o", layers, "overlay", self.root)

    def unmount(self) -> None:
        """Let go of the disk, all of it written."""
        for folder in (self.root, self._disk):
            if folder.is_mount():
                _call("umount", folder)

    def sync(self) -> None:
        """Write all of the disk, as flashing does."""
        _call("sync", "--file-system", self._disk)

    def lose_power(self) -> None:
        """Let go of the disk as it is: what was not synced and lies in memory only is lost."""
        cut = self._image.with_suffix(".cut")
        _call("cp", "--sparse=always", self._image, cut)
        self.unmount()
        cut.replace(self._image)

    def set_link(self, up: bool) -> None:
        """Set the cable's far end up or down."""
        _call("ip", "-n", self._space, "link", "set", "host0", "up" if up else "down")

    def command(self, name: str) -> list[str]:
        """Return the command that boots the device, and ends with status 133 when that reboots."""
        join = "".join(f"mkdir -p {group}; echo $$ > {group}/cgroup.procs; " for group in self._groups())
        return [
            *("sh", "-c", f'{join}exec "$@"', "sh"),
            *("systemd-nspawn", "--quiet", "--boot", "--directory", str(self.root)),
            *("--register=no", "--keep-unit", f"--network-namespace-path=/run/netns/{self._space}"),
            *(f"--machine={name}", "--console=read-only", "--resolv-conf=off", "--timezone=off", "--link-journal=no"),
        ]  # fmt: skip

    def close(self) -> None:
        """Remove everything and give the place to others. The device must be off."""
        self._clear()
        self._lock.close()

    def _groups(self) -> list[Path]:
        return [root / self._space for root in _GROUPS if root.is_dir()]

    def _make_network(self) -> None:
        _call("ip", "netns", "add", self._space)
        _call("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "host0", "netns", self._space)
        _call("ip", "addr", "add", f"{self._gateway}/24", "dev", self._cable)
        _call("ip", "link", "set", self._cable, "up")
        _call("ip", "-n", self._space, "addr", "add", f"{self.address}/24", "dev", "host0")
        for name in ("lo", "host0"):
            _call("ip", "-n", self._space, "link", "set", name, "up")

    def _clear(self) -> None:
        self._kill_all()
        for words in (
            *(("umount", "-l", folder) for folder in (self.root, self._disk)),
            ("ip", "link", "del", self._cable),
            ("ip", "netns", "del", self._space),
        ):
            subprocess.run(words, check=False, capture_output=True)
        for group in self._groups():
            for folder in [*sorted(group.rglob("*/"), reverse=True), group]:
                if folder.is_dir():
                    folder.rmdir()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill_all(self) -> None:
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            left = [pid for group in self._groups() for path in group.rglob("cgroup.procs") for pid in _words(path)]
            if not left:
                return
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        raise RuntimeError(f"{self._space}: processes {left} do not end")


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:  # its group is gone already
        return []


def _call(*words: str | Path) -> None:
    done = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
