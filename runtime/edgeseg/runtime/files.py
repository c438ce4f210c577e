"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def fsync_directory(path: Path) -> None:
    """Make the names in directory `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sibling(path: Path) -> Path:
    # The ending stays last: encoders choose the format by it.
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed to `path`, else removed."""
    partial = _sibling(path)
    try:
        yield partial
        _fsync_file(partial)
        partial.replace(path)
        fsync_directory(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a fresh folder beside `path` to fill; on success its files are synced and it takes `path`'s place.

    A folder that was at `path` before is kept until the new one is in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _sibling(path)
    partial.mkdir()
    old = _sibling(path)
    try:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                _fsync_file(Path(folder) / name)
            fsync_directory(Path(folder))
        if path.exists():
            path.replace(old)
        partial.replace(path)
        fsync_directory(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, document: Any) -> None:
    """Write `document` as indented JSON, whole or not at all. NaN is refused: an absent figure is absent."""
    write_bytes(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
