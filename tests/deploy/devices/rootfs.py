"""The file system that every booted device is an overlay of: Debian by mmdebstrap, made once and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SUITE = "bookworm"
PACKAGES = (
    *("systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "openssh-client", "iproute2", "procps"),
    *("python3", "python3-venv"),
)
_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "systemd-sysusers": "systemd",
    "ssh": "openssh-client",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "nsenter": "util-linux",
}


def why_not_here() -> str | None:
    """Return why no device can be booted on this machine, or None if it can be tried."""
    if os.geteuid() != 0:
        return "booting a device needs root"
    missing = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if missing:
        return f"booting a device needs apt-get install {' '.join(missing)}"
    if "overlay" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        return "booting a device needs overlayfs"
    return None


def make_rootfs() -> Path:
    """Return the folder that devices share, read-only by custom; made if it is not there (a minute, once).

    It lies in EDGESEG_TEST_TOOLS, else `~/.cache/edgeseg-test-tools`. Raises `RuntimeError` with the last words of
    mmdebstrap, which needs Debian's archive.
    """
    told = os.environ.get("EDGESEG_TEST_TOOLS")
    cache = Path(told) if told else Path("~/.cache/edgeseg-test-tools").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    folder = cache / f"device-{name}"
    with (cache / f"{folder.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _bootstrap(partial)
            partial.rename(folder)
    return folder


def _bootstrap(folder: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    for kind in ("doc", "man", "locale", "info"):
        command.append(f"--dpkgopt=path-exclude=/usr/share/{kind}/*")
    command.append("--customize-hook=rm -f $1/etc/ssh/ssh_host_* $1/etc/machine-id; touch $1/etc/machine-id")
    done = subprocess.run([*command, SUITE, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError(f"mmdebstrap failed: {done.stderr[-400:]}")
