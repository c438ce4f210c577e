"""Changes that a power cut leaves either undone or done.

The order was measured with real power cuts: sync the files, sync their folders, rename, sync the parent. Without
the first, a link points at a new version whose files have no bytes. Every change below runs under the agent's lock,
so the temporary names are fixed, and what an interrupted run left is simply overwritten by the next.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_stream(stream: BinaryIO) -> None:
    """Make what was written to `stream` survive a power cut."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_tree(folder: Path) -> None:
    """Make every file and name below `folder` survive a power cut. The name of `folder` itself is its parent's."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            if not path.is_symlink():
                sync_file(path)
        sync_folder(Path(parent))


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    partial = path.with_name(path.name + ".next")
    with partial.open("wb") as stream:
        stream.write(data)
        sync_stream(stream)
    partial.replace(path)
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove `path`, if it is there, for good."""
    if path.is_symlink() or path.exists():
        path.unlink()
        sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove `folder` under its name at once, then what is in it: a half-emptied folder never keeps the name."""
    doomed = folder.with_name(folder.name + ".removed")
    if doomed.exists():
        shutil.rmtree(doomed)
    if folder.exists():
        folder.replace(doomed)
        sync_folder(folder.parent)
        shutil.rmtree(doomed)


def free_bytes(folder: Path) -> int:
    """Return how many bytes an unprivileged user can still write below `folder`."""
    figures = os.statvfs(folder)
    return figures.f_bavail * figures.f_frsize


def blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield what is left in `stream` in pieces of at most a mebibyte."""
    while block := stream.read(BLOCK):
        yield block


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in blocks(stream):
            digest.update(block)
    return digest.hexdigest()
