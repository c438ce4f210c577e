"""Whether a disk may be erased. Decided by what lsblk and the kernel's tables say, and by nothing else."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.image.rootfs import call

_COLUMNS = "NAME,TYPE,SIZE,RO,MODEL,SERIAL,FSTYPE,MOUNTPOINTS,MAJ:MIN"
_OWNED = {
    "LVM2_member": "LVM",
    "linux_raid_member": "RAID",
    "ddf_raid_member": "RAID",
    "isw_raid_member": "RAID",
    "zfs_member": "ZFS",
    "bcache": "bcache",
}
_STACKED = {"lvm": "LVM", "crypt": "an open encrypted volume", "mpath": "a multipath device", "dm": "device mapper"}
_SYSTEM = ("/", "/boot", "/boot/efi", "/usr", "/var", "/home")


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A block device as lsblk tells of it; sizes in bytes."""

    path: str
    kind: str
    size: int
    read_only: bool
    number: str
    """Major and minor number, as in `8:16`."""
    model: str = ""
    serial: str = ""
    filesystem: str = ""
    mounts: tuple[str, ...] = ()
    parts: tuple[Disk, ...] = field(default=())

    @property
    def name(self) -> str:
        """The last part of its path, such as sdb."""
        return Path(self.path).name

    def __str__(self) -> str:
        size = f"{self.size / 1e9:.1f} GB"
        return f"{self.path} ({', '.join(filter(None, (self.model, self.serial, size)))})"

    def walk(self) -> Iterator[Disk]:
        """Yield this and everything on it."""
        yield self
        for part in self.parts:
            yield from part.walk()


def read_disk(path: Path) -> Disk:
    """Return the block device at `path`. Raises `DeployError` if there is none."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DeployError(f"{path}: {error.strerror}", expected="a disk such as /dev/sdb") from None
    if not stat.S_ISBLK(mode):
        raise DeployError(f"{path} is no block device", expected="a disk such as /dev/sdb")
    command = ["lsblk", "--json", "--bytes", "--paths", "--output", _COLUMNS, str(path)]
    return parse_disk(call(command, f"cannot look at {path}"))


def parse_disk(text: str) -> Disk:
    """Return the first disk in lsblk's JSON."""
    found = json.loads(text)["blockdevices"]
    return _disk(found[0])


def refuse_unsafe(disk: Disk, *, mountinfo: str, swaps: str, image_bytes: int) -> None:
    """Raise `DeployError` unless `disk` may be overwritten with an image of `image_bytes`.

    `mountinfo` and `swaps` are the texts of /proc/self/mountinfo and /proc/swaps: what they say counts, should lsblk
    have missed it.
    """
    if disk.kind not in ("disk", "loop"):
        raise DeployError(f"{disk.path} is of type {disk.kind}", expected="a whole disk, such as /dev/sdb")
    for part in disk.walk():
        mounts = {*part.mounts, *_mounts(part, mountinfo)} - {"[SWAP]"}
        if system := sorted(mounts & set(_SYSTEM)):
            raise DeployError(f"{disk} is a disk of this system: {part.path} is its {system[0]}", fix="choose another")
        if mounts:
            raise DeployError(f"{part.path} is mounted at {min(mounts)}", fix=f"umount {part.path}, if it is the one")
        if "[SWAP]" in part.mounts or any(line.split(" ", 1)[0] == part.path for line in swaps.splitlines()):
            raise DeployError(f"{part.path} is swap space in use", fix="choose another disk")
        if owner := _OWNED.get(part.filesystem) or _STACKED.get(part.kind) or _raid(part.kind):
            raise DeployError(f"{part.path} belongs to {owner}", fix="choose another disk")
    if disk.read_only:
        raise DeployError(f"{disk} is read-only", fix="unlock the card, or choose another disk")
    if disk.size < image_bytes:
        raise DeployError(f"{disk} is too small", expected=f"at least {image_bytes / 1e9:.1f} GB")


def _raid(kind: str) -> str | None:
    return "RAID" if kind.startswith(("raid", "md", "linear")) else None


def _mounts(disk: Disk, mountinfo: str) -> Iterator[str]:
    for line in mountinfo.splitlines():
        words = line.split(" ")
        if len(words) > 4 and (words[2] == disk.number or words[-2] == disk.path):
            yield words[4].encode("ascii", "replace").decode("unicode_escape")  # a space is written as \040


def _disk(entry: dict[str, Any]) -> Disk:
    return Disk(
        path=str(entry["name"]),
        kind=str(entry["type"]),
        size=int(entry["size"]),
        read_only=bool(entry["ro"]),
        number=str(entry["maj:min"]),
        model=(entry.get("model") or "").strip(),
        serial=(entry.get("serial") or "").strip(),
        filesystem=entry.get("fstype") or "",
        mounts=tuple(place for place in entry.get("mountpoints") or () if place),
        parts=tuple(_disk(child) for child in entry.get("children") or ()),
    )
