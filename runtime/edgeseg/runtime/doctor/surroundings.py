"""The machine itself: Python, JetPack, memory, disk, clock, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from edgeseg.runtime.doctor.machine import Finding, Machine

_JETPACKS = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}
_LITTLE_MEMORY_MIB, _NO_MEMORY_MIB = 1024, 256
_LITTLE_DISK_MIB, _NO_DISK_MIB = 1024, 64
# No machine that runs this was set up before it was written.
_WRITTEN_S = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()


def check_python(machine: Machine) -> Iterator[Finding]:
    version = ".".join(map(str, machine.python))
    if machine.python >= (3, 10):
        yield Finding(check="Python", level="ok", found=version)
    else:
        fix = "use Python 3.10 or later (JetPack 6 brings 3.10)"
        yield Finding(check="Python", level="error", found=f"{version} is too old", fix=fix)


def check_jetpack(machine: Machine) -> Iterator[Finding]:
    if not machine.is_jetson:
        return
    model = machine.read("proc/device-tree/model") or "a Jetson"
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", machine.read("etc/nv_tegra_release"))
    if release is None:
        yield Finding(check="JetPack", level="note", found=f"{model}, release unknown (/etc/nv_tegra_release)")
        return
    major, revision = int(release[1]), release[2]
    found = f"{model}, JetPack {_JETPACKS.get(major, '?')} (Jetson Linux {major}.{revision})"
    if major < 36 or (major == 36 and int(revision.partition(".")[0]) < 4):
        fix = "flash JetPack 6.1 or later: earlier ones have TensorRT 8"
        yield Finding(check="JetPack", level="warning", found=found, fix=fix)
    else:
        yield Finding(check="JetPack", level="ok", found=found)


def check_memory(machine: Machine) -> Iterator[Finding]:
    available = re.search(r"^MemAvailable:\s+(\d+) kB", machine.read("proc/meminfo"), re.MULTILINE)
    if available is None:
        return
    mib = int(available[1]) >> 10
    fix = "stop other programs; on a Jetson: sudo systemctl set-default multi-user.target saves the desktop's share"
    if mib < _NO_MEMORY_MIB:
        yield Finding(check="memory", level="error", found=f"{mib} MiB free: too little to load a network", fix=fix)
    elif mib < _LITTLE_MEMORY_MIB:
        yield Finding(check="memory", level="warning", found=f"{mib} MiB free: too little to build an engine", fix=fix)
    else:
        yield Finding(check="memory", level="ok", found=f"{mib} MiB free")


def check_disk(machine: Machine) -> Iterator[Finding]:
    """Where videos are written (here) and where engines are kept (the user's cache)."""
    cache = Path(machine.environ.get("XDG_CACHE_HOME") or Path(machine.environ.get("HOME", "/")) / ".cache")
    while not cache.exists():
        cache = cache.parent
    free_mib = {name: machine.free_disk_mib(path) for name, path in (("here", Path()), ("in the cache", cache))}
    where = min(free_mib, key=free_mib.__getitem__)
    mib, fix = free_mib[where], "delete what is not needed; sudo apt-get clean frees apt's copies"
    if mib < _NO_DISK_MIB:
        yield Finding(check="disk", level="error", found=f"{mib} MiB free {where}", fix=fix)
    elif mib < _LITTLE_DISK_MIB:
        yield Finding(check="disk", level="warning", found=f"{mib} MiB free {where}: videos soon fill it", fix=fix)
    else:
        yield Finding(check="disk", level="ok", found=f"{mib >> 10} GiB free {where}")


def check_clock(machine: Machine) -> Iterator[Finding]:
    fix = "sudo timedatectl set-ntp true (without a network: sudo date -s ...)"
    shown = f"{datetime.fromtimestamp(machine.time_s, tz=timezone.utc):%Y-%m-%d %H:%M} UTC"
    timesync = machine.root / "run/systemd/timesync"
    if machine.time_s < _WRITTEN_S:
        found = f"{shown} is not now: signatures, certificates and file dates will be wrong"
        yield Finding(check="clock", level="warning", found=found, fix=fix)
    elif timesync.is_dir() and not (timesync / "synchronized").exists():
        yield Finding(check="clock", level="note", found=f"{shown}, not synchronised yet", fix=fix)
    else:
        yield Finding(check="clock", level="ok", found=shown)


def check_commands(machine: Machine) -> Iterator[Finding]:
    for command, package, use in (
        ("ffmpeg", "ffmpeg", "looking into videos and streams that will not open"),
        ("ssh-keygen", "openssh-client", "edgeseg sign and edgeseg verify"),
    ):
        path = machine.which(command)
        if path is not None:
            yield Finding(check=command, level="ok", found=path)
        else:
            fix = f"sudo apt-get install {package}"
            yield Finding(check=command, level="note", found=f"not there; needed for {use}", fix=fix)
