#!/usr/bin/env python3
"""The first boot's job on a device: a host name from its serial number, its own SSH host keys, its own device key.

Python's standard library and `ssh-keygen` are all that it needs. Each step looks at what is there and does what is
missing, and the mark that ends it all is written last and synced: after a power cut the next boot goes on.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

DONE = "etc/edgeseg/first-boot.done"
DEVICE_KEY = "etc/edgeseg/device_key"
_SERIALS = ("proc/device-tree/serial-number", "sys/class/dmi/id/product_serial", "etc/machine-id")
_HOST_KEYS = ("ed25519", "ecdsa")


def main(root: Path = Path("/")) -> int:
    """Do what the device below `root` still lacks, and return the exit status."""
    if (root / DONE).exists():
        return 0
    name = host_name(root)
    write_synced(root / "etc/hostname", f"{name}\n".encode())
    write_synced(root / "etc/hosts", _hosts(root / "etc/hosts", name))
    if root == Path("/"):
        socket.sethostname(name)
    for kind in _HOST_KEYS:
        make_key(root / f"etc/ssh/ssh_host_{kind}_key", kind, f"root@{name}")
    make_key(root / DEVICE_KEY, "ed25519", name)
    write_synced(root / DONE, f"{name}\n".encode())
    sys.stdout.write(f"this device is {name}\n")
    return 0


def host_name(root: Path) -> str:
    """Return `edgeseg-` and the last eight characters of the first serial number that can be read below `root`."""
    for source in _SERIALS:
        try:
            serial = re.sub("[^a-z0-9]", "", (root / source).read_text(encoding="ascii", errors="ignore").lower())
        except OSError:
            continue
        if len(set(serial)) > 1:  # zeros stand for none
            return f"edgeseg-{serial[-8:]}"
    return "edgeseg"


def make_key(path: Path, kind: str, comment: str) -> None:
    """Make the key pair `path`, unless a whole one is there. It gets its name when both files are on the disk."""
    public = path.with_name(path.name + ".pub")
    if _pair(path) is not None and public.exists() and public.read_text(encoding="utf-8").split()[:2] == _pair(path):
        return
    partial = path.with_name(path.name + ".partial")
    for left in (partial, partial.with_name(partial.name + ".pub")):
        left.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", str(partial)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    for made, name in ((partial.with_name(partial.name + ".pub"), public), (partial, path)):
        _sync(made)
        made.replace(name)
    _sync(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all, and make it survive a power cut."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    _sync(path.parent)


def _pair(path: Path) -> list[str] | None:
    """Return the public words of the private key at `path`, or None if it is missing or damaged."""
    if not path.is_file():
        return None
    found = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", str(path)], capture_output=True, text=True, check=False
    )  # fmt: skip
    return found.stdout.split()[:2] if found.returncode == 0 else None


def _hosts(path: Path, name: str) -> bytes:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ["127.0.0.1\tlocalhost"]
    kept = [line for line in lines if not line.startswith("127.0.1.1")]
    return "".join(f"{line}\n" for line in [*kept, f"127.0.1.1\t{name}"]).encode()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
