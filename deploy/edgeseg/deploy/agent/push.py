"""The device's side of a push: what it has of a release already, the missing rest, and what became of it.

A release arrives as parts: bytes that are sent, and pieces of files that one of the slots holds. What they make is an
upload like any other, so it can be interrupted anywhere and has its hash checked as a whole.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import select
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .config import Config
from .descriptor import Descriptor
from .errors import AgentError
from .files import BLOCK, free_bytes, sha256_file, write_whole
from .records import Records
from .slots import NAMES, Slots
from .upload import Uploads

SCHEMA = "edgeseg/device-progress/1"
SMALLEST = 4096
"""Bytes of a file that is worth naming instead of sending."""
_STALL_S = 60
"""A link that is silent for so long is dead: the upload ends, and with it the hold on its file."""
_MAX_HEADER = 1 << 22
_REFUSED = "refused.json"


def read_content(config: Config) -> dict[str, int]:
    """Return SHA-256 and size of the files of both slots that are really there, whole."""
    return {sha256: path.stat().st_size for sha256, path in _named(Slots(config.root)) if _is(path, sha256)}


def read_progress(config: Config, sha256: str) -> dict[str, Any]:
    """Return how far the release with this hash is here, as one document. Takes no lock and hashes no slot.

    What a running activation changes last is read first: something that is under way is never missed.
    """
    uploads, slots, records = Uploads(config), Slots(config.root), Records(config.root)
    asked = _read(config.root / "request") == sha256.encode()
    trial = records.load_trial()
    current, good, free = slots.current, slots.good, slots.free()
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "asked": asked,
        "offset": uploads.offset(sha256),
        "whole": uploads.path(sha256).exists(),
        "sending": _is_locked(uploads.path(sha256).with_suffix(".partial")),
        "on_trial": current is not None and current != good,
        "free": free_bytes(config.root if config.root.exists() else config.root.parent) - (config.reserve_mb << 20),
        "reclaimable": _size(slots.path(free)) if free else 0,
    }
    for key, slot in (("current", current), ("good", good)):
        release = slots.descriptor(slot) if slot else None
        if release is not None:
            document[key] = {"name": release.name, "version": release.version, "digest": release.digest}
    if trial is not None:
        document["trial"] = {"digest": trial.digest, "note": trial.note, "healthy_s": trial.healthy_s}
    document["failed"] = records.load_state().failed
    refused = json.loads(_read(config.root / _REFUSED) or b"{}")
    return document | ({"refused": refused[sha256]} if sha256 in refused else {})


def assemble(config: Config, descriptor: int, *, sha256: str, size: int, offset: int) -> str:
    """Append to an upload what the file descriptor brings, and return one line for a person.

    First comes one line of JSON, the parts from `offset` on: `[bytes]` that follow, or `[bytes, sha256, start]` of a
    file in a slot. Raises `AgentError` as `Uploads.receive` does, if such a file is no longer here, or if the
    activation of another release was asked for.
    """
    if _read(config.root / "request") not in (b"", sha256.encode()):
        raise AgentError("another release is being activated on this device", fix="wait until that has ended")
    link = _Link(descriptor)
    parts = _parse(link.line())
    with io.BufferedReader(_Stream(_content(parts, dict(_named(Slots(config.root))), link)), BLOCK) as stream:
        return Uploads(config).receive(stream, sha256=sha256, size=size, offset=offset)


def note_refusal(root: Path, sha256: str, reason: str) -> None:
    """Keep why the release with this hash was not activated, for whoever pushed it; a full disk keeps nothing."""
    with suppress(OSError):
        write_whole(root / _REFUSED, json.dumps({sha256: reason}).encode())


def forget_refusal(root: Path) -> None:
    """Forget the last refusal: something new is asked for."""
    (root / _REFUSED).unlink(missing_ok=True)


class _Link:
    """The bytes of a connection, up to its end or to a long silence."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._rest = descriptor, b""

    def read(self, limit: int) -> bytes:
        if not self._rest and select.select([self._descriptor], [], [], _STALL_S)[0]:
            self._rest = os.read(self._descriptor, BLOCK)
        block, self._rest = self._rest[:limit], self._rest[limit:]
        return block

    def line(self) -> bytes:
        head = b""
        while b"\n" not in head and len(head) <= _MAX_HEADER and (block := self.read(BLOCK)):
            head += block
        line, _, self._rest = head.partition(b"\n")
        return line


class _Stream(io.RawIOBase):
    """A file of what an iterator yields."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _content(parts: Sequence[Sequence[Any]], files: dict[str, Path], link: _Link) -> Iterator[bytes]:
    for left, *source in parts:
        if not source:
            while left:
                block = link.read(min(BLOCK, left))
                if not block:
                    return
                left -= len(block)
                yield block
            continue
        sha256, start = source
        try:
            with files[sha256].open("rb") as stream:
                stream.seek(start)
                while left and (block := stream.read(min(BLOCK, left))):
                    left -= len(block)
                    yield block
        except (KeyError, FileNotFoundError):
            left = 1
        if left:
            raise AgentError(f"the file {sha256[:12]} is no longer here", fix="push again")


def _parse(line: bytes) -> list[list[Any]]:
    try:
        parts = json.loads(line)
        for part in parts:
            kinds = [type(value) for value in part]
            if kinds not in ([int], [int, str, int]) or min(part[0], part[-1]) < 0:
                raise ValueError(part)
    except (ValueError, TypeError, IndexError, RecursionError):
        raise AgentError("the list of parts is damaged", fix="push again") from None
    return list(parts)


def _named(slots: Slots) -> Iterator[tuple[str, Path]]:
    for slot in NAMES:
        release: Descriptor | None = slots.descriptor(slot)
        for name, entry in release.files.items() if release else ():
            if entry.size >= SMALLEST:
                yield entry.sha256, slots.path(slot) / name


def _is(path: Path, sha256: str) -> bool:
    try:
        return sha256_file(path) == sha256
    except OSError:
        return False


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
