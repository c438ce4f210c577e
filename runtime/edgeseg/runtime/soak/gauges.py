"""What the kernel says that this process holds, taken at regular times by a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from edgeseg.runtime.frame import Result
from edgeseg.runtime.soak.trend import Series
from edgeseg.runtime.summary import RunRecorder

_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
_SAMPLES = 600
_LEAST_PERIOD_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdings:
    """What one process holds at one time."""

    memory_mib: float
    """Resident, shared pages included."""
    handles: int
    """Open file descriptors."""
    threads: int
    """The kernel's count, so those of C libraries too."""


def read_holdings() -> Holdings:
    """Ask the kernel about this process. Raises `OSError` where there is no Linux `/proc`."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Holdings(
        memory_mib=pages * _PAGE_MIB,
        handles=sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,  # less the one that lists them
        threads=sum(1 for _ in Path("/proc/self/task").iterdir()),
    )


class Watch:
    """Samples what this process holds for `seconds` from the first result on. `observe` takes a run's results.

    All memory that it needs is taken at the start, so that it does not find itself.
    """

    def __init__(self, seconds: float) -> None:
        self.period_s = max(seconds / _SAMPLES, _LEAST_PERIOD_S)
        self.planned = round(seconds / self.period_s)
        """How many samples it takes, unless it is stopped."""
        self.began_s = 0.0
        """`time.monotonic()` at the first result: loading does not count."""
        self._samples = np.full((self.planned, 5), np.nan)
        self._taken = 0
        self._ages_ms: list[float] = []
        self._lock = threading.Lock()
        self._began, self._stopped = threading.Event(), threading.Event()

    def observe(self, result: Result, _recorder: RunRecorder) -> None:
        """Note a result's age; the first result begins the watch."""
        with self._lock:
            self._ages_ms.append(result.frame_age_ms)
        self._began.set()

    @contextmanager
    def running(self, on_sample: Callable[[], object], on_end: Callable[[], object]) -> Iterator[None]:
        """Watch while the block runs. `on_sample` and, after the last sample, `on_end` are called in its thread."""
        thread = threading.Thread(target=self._run, args=(on_sample, on_end), name="edgeseg-soak", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._began.set()
            thread.join()

    def series(self) -> dict[str, Series]:
        """Return the samples so far by name; `seconds` since the start. Ages are NaN where no frame came."""
        names = ("seconds", "memory_mib", "handles", "threads", "frame_age_ms")
        return {name: self._samples[: self._taken, column].copy() for column, name in enumerate(names)}

    def _run(self, on_sample: Callable[[], object], on_end: Callable[[], object]) -> None:
        self._began.wait()
        self.began_s = time.monotonic()
        for index in range(self.planned):
            due_s = self.began_s + (index + 1) * self.period_s
            if self._stopped.wait(max(0.0, due_s - time.monotonic())):
                return
            self._take(index)
            on_sample()
        on_end()

    def _take(self, index: int) -> None:
        with self._lock:
            age_ms = median(self._ages_ms) if self._ages_ms else float("nan")
            self._ages_ms.clear()
        held = read_holdings()
        elapsed_s = time.monotonic() - self.began_s
        self._samples[index] = (elapsed_s, held.memory_mib, held.handles, held.threads, age_ms)
        self._taken = index + 1


def settle(before: Holdings, patience_s: float) -> Holdings:
    """Wait until no more handles and threads are held than `before`, at most `patience_s`. Returns what is held."""
    deadline_s = time.monotonic() + patience_s
    while True:
        held = read_holdings()
        if (held.handles <= before.handles and held.threads <= before.threads) or time.monotonic() > deadline_s:
            return held
        time.sleep(0.05)
