"""At most one activation at a time.

The kernel frees the lock when its last holder dies, killed or not, so a stale one cannot exist. The commands that
prepare a slot hold it too: as long as one of them lives, nothing else touches the slot that it writes to.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import AgentError


@contextmanager
def locked(path: Path, *, wait_s: float = 0) -> Iterator[int]:
    """Hold the lock at `path` and yield its descriptor. Raises `AgentError` if another holds it beyond `wait_s`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        deadline = time.monotonic() + wait_s
        while not _try(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise AgentError(
                    f"another change is under way on this device (process {holder})", fix="wait until it has ended"
                )
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
