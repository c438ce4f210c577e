"""The upload area: a release arrives in as many pieces as the network makes of it, and gets its name when it is whole.

It holds one release at a time, and an abandoned upload makes room for the next.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import BinaryIO

from .config import Config
from .errors import AgentError
from .files import BLOCK, sha256_file, sync_folder, sync_stream
from .policy import require_space


class Uploads:
    """The folder `incoming` below the agent's root."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = config.root / "incoming"

    def path(self, sha256: str) -> Path:
        """Return where the upload with this hash lies once it is whole. Raises `AgentError` if it is no hash."""
        if re.fullmatch(r"[0-9a-f]{64}", sha256) is None:
            raise AgentError(f"{sha256!r} is no SHA-256", expected="64 hexadecimal digits")
        return self._folder / f"{sha256}.release"

    def offset(self, sha256: str) -> int:
        """Return how many bytes of it are here already."""
        whole = self.path(sha256)
        for path in (whole, whole.with_suffix(".partial")):
            if path.exists():
                return path.stat().st_size
        return 0

    def receive(self, stream: BinaryIO, *, sha256: str, size: int, offset: int) -> str:
        """Append `stream`, the bytes from `offset` on, and return one line for a person.

        Raises `AgentError` if there is no room, the offset is not where the upload stopped, another sender is at it,
        the stream ends early (what came is kept), or the whole is not what its hash says (nothing is kept).
        """
        whole = self.path(sha256)
        self._folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self._config.root)
        if whole.exists():
            return "uploaded already: nothing done"
        self._make_room(keep=whole.with_suffix(".partial").name)
        with whole.with_suffix(".partial").open("ab") as sink:
            _lock(sink)
            if sink.tell() > size:
                whole.with_suffix(".partial").unlink()
                raise AgentError(f"more than {size} bytes were uploaded before", fix="push again")
            if sink.tell() != offset:
                raise AgentError(f"the upload stopped at byte {sink.tell()}", expected=f"{offset}", fix="resume there")
            require_space(self._config, size - offset)
            received = _append(stream, sink, size - offset)
            sync_stream(sink)
            if offset + received < size:
                raise AgentError(f"the upload stopped at byte {offset + received} of {size}", fix="push again")
            if sha256_file(whole.with_suffix(".partial")) != sha256:
                whole.with_suffix(".partial").unlink()
                raise AgentError("the upload is not what its hash says", fix="push again")
            whole.with_suffix(".partial").replace(whole)
            sync_folder(self._folder)
        return f"uploaded {size} bytes"

    def forget(self, path: Path) -> None:
        """Remove an upload that was dealt with; a file elsewhere is its owner's."""
        if path.parent == self._folder:
            path.unlink(missing_ok=True)

    def _make_room(self, *, keep: str) -> None:
        for path in self._folder.iterdir():
            if path.name == keep:
                continue
            with path.open("rb") as stream:
                _lock(stream)
                path.unlink()


def _append(stream: BinaryIO, sink: BinaryIO, left: int) -> int:
    received = 0
    while received < left and (block := stream.read(min(BLOCK, left - received))):
        sink.write(block)
        received += len(block)
    return received


def _lock(stream: BinaryIO) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = os.path.basename(stream.name)[:12]  # noqa: PTH119
        raise AgentError(f"another sender is uploading {name}", fix="wait until it has ended") from None
