"""A disk with a volatile cache: what a power cut may leave of it.

qemu's `blklogwrites` driver writes down every request of the guest in order, flushes included, in the format of the
kernel's dm-log-writes. A flush makes durable what came before it; of what came after the last one, a real disk may
keep any part. `lose` builds such a disk from the disk before and the log.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD = 1, 2, 4
_SUPER, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
_SECTOR = 512


@dataclass(frozen=True)
class Request:
    """A write at byte `offset` (none where `data` is empty), a flush, or both."""

    offset: int
    data: bytes
    flags: int


@dataclass(frozen=True)
class Loss:
    """What a cut did, in requests: `durable` were flushed; of `pending` ones `lost` are gone and `torn` cut short."""

    durable: int
    pending: int
    lost: int
    torn: int


def logged_drive(disk: Path, log: Path) -> list[str]:
    """Return qemu's options for a raw `disk` whose requests go to `log` too."""
    log.unlink(missing_ok=True)
    log.touch()
    os.truncate(log, 1 << 30)
    parts = [
        f"driver=file,node-name=base,filename={disk}",
        "driver=raw,node-name=raw,file=base",
        f"driver=file,node-name=logfile,filename={log}",
        "driver=blklogwrites,node-name=disk,file=raw,log=logfile",
    ]
    return [word for part in parts for word in ("-blockdev", part)]


def read_log(log: Path) -> list[Request]:
    """Return the requests in `log`; one that was being written down when the power failed is left out."""
    found = []
    with log.open("rb") as stream:
        # The first block tells the format, and is empty up to the first flush.
        assert _SUPER.unpack(stream.read(_SUPER.size))[:2] in ((MAGIC, VERSION), (0, 0)), "no log of blklogwrites"
        at = _SECTOR
        while (entry := _entry(stream, at)) is not None:
            first, flags, size = entry
            data = stream.read(size)
            if len(data) < size:
                break
            found.append(Request(first * _SECTOR, data, flags))
            at += _SECTOR + size
    return found


def await_requests(log: Path, count: int, timeout_s: float) -> None:
    """Return as soon as `log` has `count` requests, or when `timeout_s` is over."""
    deadline, at = time.monotonic() + timeout_s, _SECTOR
    with log.open("rb", buffering=0) as stream:
        while count and time.monotonic() < deadline:
            entry = _entry(stream, at)
            if entry is None:
                time.sleep(0.001)
                continue
            at, count = at + _SECTOR + entry[2], count - 1


def _entry(stream: BinaryIO, at: int) -> tuple[int, int, int] | None:
    """Return first sector, flags and bytes of data of the request logged at byte `at`, or None if there is none."""
    stream.seek(at)
    header = stream.read(_SECTOR)
    if len(header) < _SECTOR:
        return None
    first, count, flags, _ = _ENTRY.unpack(header[: _ENTRY.size])
    if not any((first, count, flags)):
        return None
    return first, flags, 0 if flags & DISCARD else count * _SECTOR


def lose(before: Path, log: Path, after: Path, chance: random.Random, *, keep: float, count: int | None = None) -> Loss:
    """Write to `after` the disk `before` with the durable requests of `log` and some of the pending ones.

    Each pending one is kept with probability `keep`; where that is neither 0 nor 1, some of those are torn between
    two sectors. `count` takes the log as it was after so many requests: what it was if the power had failed then.
    """
    requests = read_log(log)[:count]
    flushed = max((index for index, request in enumerate(requests) if request.flags & FLUSH), default=-1)
    subprocess.run(["cp", str(before), str(after)], check=True)
    lost = torn = 0
    pending = [request for request in requests[flushed + 1 :] if request.data]
    with after.open("r+b") as disk:
        for request in requests[: flushed + 1]:
            _put(disk.fileno(), request, len(request.data))
        for request in pending:
            size = len(request.data)
            if chance.random() >= keep:
                if keep > 0 and size > _SECTOR and chance.random() < 0.5:
                    size = _SECTOR * chance.randrange(1, size // _SECTOR)
                    torn += 1
                else:
                    size = 0
                    lost += 1
            _put(disk.fileno(), request, size)
    return Loss(flushed + 1, len(pending), lost, torn)


def _put(descriptor: int, request: Request, size: int) -> None:
    if size:
        os.pwrite(descriptor, request.data[:size], request.offset)
