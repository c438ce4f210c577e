"""Writing an image to a disk, and reading it back."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.image.disks import Disk

_BLOCK = 1 << 22
_BLKFLSBUF = 0x1261
_BLKRRPART = 0x125F


def write_image(image: Path, disk: Disk, advance: Callable[[int], object]) -> str:
    """Write `image` to `disk`, sync it, read it back from the disk itself and return the SHA-256 of both.

    `advance` is told of every megabyte, written and read: twice the size of the image in all. The disk is claimed for
    as long as it is written: the kernel refuses one that is mounted or part of something else. Raises `DeployError`.
    """
    try:
        descriptor = os.open(disk.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise DeployError(
            f"{disk.path} cannot be claimed: {error.strerror}", fix="is it in use, and are you root?"
        ) from None
    with closing(os.fdopen(descriptor, "r+b", buffering=0)):
        found = os.fstat(descriptor)
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        if not stat.S_ISBLK(found.st_mode) or number != disk.number:
            raise DeployError(f"{disk.path} is another disk now", fix="look again, then write")
        try:
            with image.open("rb", buffering=0) as source:
                wanted, size = hashlib.sha256(), 0
                while block := source.read(_BLOCK):
                    wanted.update(block)
                    _write_all(descriptor, block)
                    size += len(block)
                    advance(len(block))
            os.fsync(descriptor)
            fcntl.ioctl(descriptor, _BLKFLSBUF)  # what is read back comes from the disk, not from memory
            found_hash = _hash(descriptor, size, advance)
        except OSError as error:
            raise DeployError(f"writing to {disk.path} failed: {error.strerror}", fix="try another card") from None
        if found_hash != wanted.hexdigest():
            raise DeployError(f"{disk.path} does not hold what was written to it", fix="try another card")
        with suppress(OSError):  # a loop device may have no partitions to read again
            fcntl.ioctl(descriptor, _BLKRRPART)
    return found_hash


def _write_all(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _hash(descriptor: int, size: int, advance: Callable[[int], object]) -> str:
    digest, left = hashlib.sha256(), size
    os.lseek(descriptor, 0, os.SEEK_SET)
    while left and (block := os.read(descriptor, min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
        advance(len(block))
    return digest.hexdigest()
