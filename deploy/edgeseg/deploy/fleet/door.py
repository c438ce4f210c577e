"""One device's part of a command, in a process of its own: `python -m edgeseg.deploy.fleet.door DEVICE [first]`.

It works in the folder that `engine.run` made, and dies with the process that made it.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import sys
import threading
from pathlib import Path
from typing import Protocol

from edgeseg.deploy.fleet.board import Board
from edgeseg.deploy.inventory import Device

DONE, FAILED, LATER = 0, 1, 75


class Job(Protocol):
    """What is to be done with each device; it gets there by pickle."""

    def run(self, device: Device, board: Board, *, first: bool) -> int:
        """Do it, note what came of it on the board, and return `DONE`, `FAILED` or, only if it is the `first` of two
        tries, `LATER`."""
        ...


def serve(folder: Path, name: str, *, first: bool) -> int:
    """Do the job in `folder` with the device `name` and return its status."""
    job, devices = pickle.loads((folder / "job").read_bytes())
    board = Board(folder)
    try:
        status: int = job.run(devices[name], board, first=first)
    except Exception as error:
        board.note(name, died=f"{type(error).__name__}: {error}")
        raise
    return status


def _die_with_the_caller(lock: Path) -> None:
    """Wait until nobody holds `lock` any more, and end this process: the lock goes with its holder, however it ends."""
    try:
        with lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
    finally:
        os._exit(FAILED)


if __name__ == "__main__":
    threading.Thread(target=_die_with_the_caller, args=(Path("alive"),), daemon=True).start()
    sys.exit(serve(Path(), sys.argv[1], first="first" in sys.argv[2:]))
