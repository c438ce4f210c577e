"""A release as it is offered to devices: which of its bytes are files that a device may hold already."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeseg.deploy.agent.archive import open_archive
from edgeseg.deploy.agent.descriptor import Descriptor
from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.agent.push import SMALLEST
from edgeseg.deploy.errors import DeployError
from edgeseg.runtime.files import sha256_file

_BLOCK = 1 << 16
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `end` of the release's file; with `sha256`, what a file of that hash has from `skip` on."""

    start: int
    end: int
    sha256: str | None = None
    skip: int = 0


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A release that is whole. `parts` are the files in it that are worth naming, in the order of their places."""

    path: Path
    sha256: str
    size: int
    descriptor: Descriptor
    parts: tuple[Part, ...]

    def missing(self, held: Container[str], offset: int) -> int:
        """Return how many bytes from `offset` on must be sent to a device that holds the files `held`."""
        return sum(part.end - part.start for part in self._rest(held, offset) if part.sha256 is None)

    def send(self, held: Container[str], offset: int, sent: Callable[[int], None]) -> Iterator[bytes]:
        """Yield what the agent's `assemble` reads; `sent` hears of each block's bytes when the next is asked for."""
        rest = list(self._rest(held, offset))
        table = [[part.end - part.start, *([part.sha256, part.skip] if part.sha256 else [])] for part in rest]
        yield json.dumps(table).encode() + b"\n"
        with self.path.open("rb") as stream:
            for part in rest:
                if part.sha256 is not None:
                    continue
                stream.seek(part.start)
                left = part.end - part.start
                while left and (block := stream.read(min(_BLOCK, left))):
                    left -= len(block)
                    yield block
                    sent(len(block))

    def _rest(self, held: Container[str], offset: int) -> Iterator[Part]:
        """Yield the parts from `offset` on, what is to be sent in as few as possible."""
        start = offset  # of the bytes to send that were not yielded yet
        for part in self.parts:
            if part.sha256 not in held or part.end <= offset:
                continue
            begin = max(part.start, offset)
            if begin > start:
                yield Part(start, begin)
            yield Part(begin, part.end, part.sha256, begin - part.start)
            start = part.end
        if start < self.size:
            yield Part(start, self.size)


def read_offer(path: Path) -> Offer:
    """Return the release at `path`, every file in it checked against its descriptor. Raises `DeployError`.

    Whether its signature is to be trusted is each device's to judge.
    """
    try:
        with open_archive(path) as archive:
            archive.check()
            descriptor = archive.descriptor
    except AgentError as error:
        raise DeployError(error.found, expected=error.expected, fix="make it with edgeseg deploy release") from None
    except OSError as error:
        raise DeployError(f"cannot read {path}: {error.strerror}") from None
    return Offer(
        path=path.absolute(),  # it is read by processes that work elsewhere
        sha256=sha256_file(path),
        size=path.stat().st_size,
        descriptor=descriptor,
        parts=tuple(_parts(path, descriptor)),
    )


def _parts(path: Path, descriptor: Descriptor) -> Iterator[Part]:
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            entry = descriptor.files.get(info.filename)
            if entry is None or entry.size < SMALLEST:
                continue
            stream.seek(info.header_offset)
            header = stream.read(_LOCAL_HEADER_BYTES)
            lengths = (int.from_bytes(header[place : place + 2], "little") for place in (26, 28))
            start = info.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)
            yield Part(start, start + entry.size, entry.sha256)
