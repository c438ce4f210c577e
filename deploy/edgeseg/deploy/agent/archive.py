"""A release as a single file: an uncompressed zip, of which nothing is believed before its descriptor is verified."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .descriptor import DESCRIPTOR, MAX_DESCRIPTOR_BYTES, SIGNATURE, Descriptor, parse_descriptor
from .errors import AgentError
from .files import BLOCK, sync_tree

_MAX_SIGNATURE_BYTES = 1 << 16


class Archive:
    """An open release. `descriptor_bytes` and `signature` are its words, not yet checked by anyone."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            if info.filename in self._members or info.compress_type != zipfile.ZIP_STORED:
                raise AgentError(
                    f"{info.filename} in {name} is twice there or compressed", fix="make the release again"
                )
            self._members[info.filename] = info
        self.descriptor_bytes = self._small(DESCRIPTOR, MAX_DESCRIPTOR_BYTES)
        self.signature = self._small(SIGNATURE, _MAX_SIGNATURE_BYTES)
        self.descriptor: Descriptor = parse_descriptor(self.descriptor_bytes)

    def _small(self, name: str, limit: int) -> bytes:
        if name not in self._members:
            raise AgentError(f"the archive has no {name}", fix="make it with edgeseg deploy release")
        with self._archive.open(self._members[name]) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise AgentError(f"{name} is larger than {limit} bytes")
        return data

    def check(self) -> None:
        """Read every file and compare it with the descriptor. Raises `AgentError`."""
        self._refuse_unlisted()
        for name in sorted(self.descriptor.files):
            for _ in self._content(name):
                pass

    def unpack(self, folder: Path) -> None:
        """Write the release to the new `folder`, each byte hashed on its way, and make it survive a power cut.

        The hashes are those of the descriptor in memory, so an archive that is exchanged after its signature was
        checked is refused. Raises `AgentError`; `folder` is then to be removed.
        """
        self._refuse_unlisted()
        folder.mkdir()
        for name, data in ((DESCRIPTOR, self.descriptor_bytes), (SIGNATURE, self.signature)):
            (folder / name).write_bytes(data)
        for name in sorted(self.descriptor.files):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as sink:
                for block in self._content(name):
                    sink.write(block)
        sync_tree(folder)

    def _refuse_unlisted(self) -> None:
        unlisted = set(self._members) - set(self.descriptor.files) - {DESCRIPTOR, SIGNATURE}
        if unlisted:
            raise AgentError(f"{min(unlisted)} is not listed in {DESCRIPTOR}", fix="make the release again")

    def _content(self, name: str) -> Iterator[bytes]:
        entry = self.descriptor.files[name]
        if name not in self._members:
            raise AgentError(f"{name} is missing from the archive", fix="copy the release again")
        digest, size = hashlib.sha256(), 0
        with self._archive.open(self._members[name]) as source:
            while size <= entry.size and (block := source.read(BLOCK)):
                size += len(block)
                digest.update(block)
                yield block
        if size != entry.size or digest.hexdigest() != entry.sha256:
            raise AgentError(f"{name} was altered: it is not what was signed", fix="copy the release again")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open the release at `path` for reading. Raises `AgentError` if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield Archive(archive, path.name)
    except FileNotFoundError:
        raise AgentError(f"{path}: no such release") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise AgentError(f"{path.name} is not a readable release ({error})", fix="copy the release again") from None
