"""Where a root file system comes from, and what it is packed to: a folder, a tar archive or a raw ext4 image.

The tools that know these formats do the work: GNU tar, cp, mke2fs, and mount for raw images.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgeseg.deploy.errors import DeployError
from edgeseg.runtime.files import whole_file

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_IMAGES = (".img", ".raw")
_NAMESPACE = uuid.UUID("1d4f61e8-5d55-4a5d-8f6a-0f2f3a7a6f0e")
_MIB, _SECTOR = 1 << 20, 512
_LINUX = ("0fc63daf-8483-4772-8e79-3d69d8477de4", "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "0x83")
"""Types of partitions that hold a root file system; NVIDIA marks its own as basic data."""


def kind_of(path: Path) -> str:
    """Return `folder`, `tar` or `image`, by what is there, else by the name's ending."""
    if path.is_dir():
        return "folder"
    name = path.name.lower()
    if name.endswith(_TARS):
        return "tar"
    return "image" if name.endswith(_IMAGES) else "folder"


@contextmanager
def unpacked(source: Path, work: Path) -> Iterator[Path]:
    """Yield a folder that holds the root file system of the folder or archive `source`, to be changed at will.

    Owners, modes, times, hard links and extended attributes are those of `source`. `work` is where there is room.
    """
    with tempfile.TemporaryDirectory(prefix=".image-", dir=work) as folder:
        root = Path(folder) / "root"
        root.mkdir()
        if kind_of(source) == "folder":
            call(["cp", "-a", "--one-file-system", f"{source}/.", str(root)], f"cannot copy {source}")
        else:
            options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]
            call(["tar", *options, str(source), "-C", str(root)], f"cannot unpack {source}")
        yield root


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """Mount the largest Linux partition of a raw image, or all of it if it has none, and yield its folder."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-mount-") as folder:
        options = f"loop,nodev,nosuid,offset={_offset(image)}"
        call(["mount", "-o", options, str(image), folder], f"cannot mount {image}")
        try:
            yield Path(folder)
        finally:
            call(["umount", folder], f"cannot unmount {image}")


def pack_tar(root: Path, out: Path) -> None:
    """Write the tree below `root` as a tar archive: names sorted, owners by number, so the same bytes each time."""
    options = [
        *("--sort=name", "--numeric-owner", "--one-file-system", "--xattrs", "--xattrs-include=*", "--format=posix"),
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    ]
    with whole_file(out) as partial:
        call(["tar", *options, "-C", str(root), "-cf", str(partial), "."], f"cannot write {out}")


def pack_image(root: Path, out: Path, *, size: int | None, epoch: int, seed: str) -> None:
    """Write the tree below `root` as an ext4 file system of `size` bytes, or of what it holds and half as much again.

    Identifiers follow from `seed` and times are the files' own or `epoch`, so the same tree gives the same bytes.
    """
    if size is None:
        size = max(_content(root) * 3 // 2, 64 * _MIB) + 256 * _MIB
    size -= size % _MIB
    identity = str(uuid.uuid5(_NAMESPACE, seed))
    clock = {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch)}
    features = f"hash_seed={identity},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
    with whole_file(out) as partial:
        partial.touch()
        os.truncate(partial, size)
        make = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(root), "-L", "edgeseg", "-U", identity, "-E", features]
        call([*make, str(partial)], f"cannot make {out} of {size // _MIB} MiB", clock)
        _fix_times(partial, epoch, clock)


def call(command: Sequence[str], problem: str, environment: Mapping[str, str] | None = None, text: str = "") -> str:
    """Run a tool with `text` on its standard input and return what it says. Raises `DeployError` if it fails."""
    try:
        ended = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
        )  # fmt: skip
    except FileNotFoundError:
        raise DeployError(f"{command[0]} is not installed", fix=f"apt-get install {_PACKAGES[command[0]]}") from None
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"{command[0]} ended with status {ended.returncode}"]
        raise DeployError(f"{problem}: {lines[-1]}")
    return ended.stdout


_PACKAGES = {
    "cp": "coreutils", "tar": "tar", "mount": "mount", "umount": "mount", "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs", "dumpe2fs": "e2fsprogs", "partx": "util-linux", "lsblk": "util-linux",
}  # fmt: skip


def _fix_times(image: Path, epoch: int, clock: Mapping[str, str]) -> None:
    # mke2fs copies when an inode was changed and last read, which no build can repeat.
    facts = call(["dumpe2fs", str(image)], f"cannot read {image}")
    count = re.search(r"^Inode count:\s+(\d+)", facts, re.M)
    free = [
        (int(first), int(last or first))
        for line in re.findall(r"^  Free inodes: (.*)$", facts, re.M)
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", line)
    ]
    assert count is not None
    unused = {number for first, last in free for number in range(first, last + 1)}
    used = [2, *(number for number in range(11, int(count[1]) + 1) if number not in unused)]
    script = "".join(f"sif <{number}> {name} @{epoch}\n" for number in used for name in ("ctime", "atime"))
    with tempfile.NamedTemporaryFile("w", prefix="edgeseg-times-") as file:
        file.write(script)
        file.flush()
        call(["debugfs", "-w", "-f", file.name, str(image)], f"cannot set the times of {image}", clock)


def _content(root: Path) -> int:
    total = 0
    for parent, folders, names in os.walk(root):
        total += sum(4096 + os.lstat(os.path.join(parent, name)).st_size for name in names)  # noqa: PTH118
        total += 4096 * len(folders)
    return total


def _offset(image: Path) -> int:
    """Return where the largest Linux partition of `image` begins, in bytes; 0 if there is no partition table."""
    command = ["partx", "--show", "--noheadings", "--output", "SECTORS,START,TYPE", str(image)]
    try:
        lines = [line.split() for line in call(command, f"cannot look at {image}").splitlines()]
    except DeployError as error:
        if "failed to read partition table" not in error.found:
            raise
        return 0
    partitions = [(int(sectors), int(start)) for sectors, start, kind in lines if kind.lower() in _LINUX]
    if not partitions:
        raise DeployError(f"{image} has no Linux partition")
    return max(partitions)[1] * _SECTOR


def copy_image(source: Path, out: Path) -> None:
    """Copy a raw image, its holes kept."""
    call(["cp", "--sparse=always", str(source), str(out)], f"cannot copy {source}")


def move_folder(root: Path, out: Path) -> None:
    """Give the tree at `root` its place at `out`, an empty folder or none."""
    if out.exists():
        if any(out.iterdir()):
            raise DeployError(f"{out} is not empty", fix="give --out a folder that is empty or not there yet")
        out.rmdir()
    shutil.move(root, out)
