"""What the processes of one command tell each other: lines of JSON in a file, to which each appends whole ones."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_APART_S = 0.2
"""An upload tells of a block no sooner than this after another."""


class Board:
    """One process's place at the board in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._path, self._stop = folder / "board.jsonl", folder / "stop"
        self._read = 0
        self._told_s = 0.0

    def note(self, device: str, **words: Any) -> None:
        """Append a line about `device`, which is on the board when this returns."""
        line = json.dumps({"device": device, "at_s": time.monotonic(), **words}) + "\n"
        board = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(board, line.encode())
        finally:
            os.close(board)

    def tell(self, device: str, stage: str, words: str = "", *, done: int = 0, total: int = 0) -> None:
        """Append how far `device` is; of the blocks of an upload only some."""
        now_s = time.monotonic()
        if 0 < done < total and now_s < self._told_s + _APART_S:
            return
        self._told_s = now_s
        self.note(device, stage=stage, words=words, done=done, total=total)

    def news(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that this place has not read yet."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._read)
                for line in stream:
                    if not line.endswith(b"\n"):
                        return
                    self._read += len(line)
                    yield json.loads(line)
        except FileNotFoundError:
            return

    def stop(self, reason: str) -> None:
        """Let nobody else be begun. The first reason counts."""
        part = self._stop.with_suffix(f".{os.getpid()}")
        part.write_text(reason, encoding="utf-8")
        try:
            os.link(part, self._stop)
        except FileExistsError:
            pass
        finally:
            part.unlink()

    def reason(self) -> str:
        """Return why nobody else is to be begun, or nothing."""
        return self._stop.read_text(encoding="utf-8") if self._stop.exists() else ""
