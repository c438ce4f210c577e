"""Telemetry beside a run: a thread that takes readings and is gone when the run is.

Nothing here can hold a run up or fail it: without a source of telemetry, or when one ends, figures are absent and
`problem` says why.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from edgeseg.runtime.telemetry.account import Account, describe_figures
from edgeseg.runtime.telemetry.nvml import Nvml
from edgeseg.runtime.telemetry.reading import Reading, Source
from edgeseg.runtime.telemetry.tegrastats import Tegrastats

_JOIN_S = 5.0


def open_source() -> Source:
    """Start tegrastats where there is one, else NVML.

    Raises `OSError` or `ImportError`, whose text says what is missing.
    """
    command = shutil.which("tegrastats")
    return Tegrastats(command) if command is not None else Nvml()


class Sampler:
    """Takes readings from entering the block to leaving it. `latest` and `document` may be asked for at any time."""

    def __init__(
        self, open_source: Callable[[], Source] = open_source, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open, self._clock = open_source, clock
        self._account, self._lock = Account(), threading.Lock()
        self._source: Source | None = None
        self._thread: threading.Thread | None = None
        self._started_s = self._stopped_s = 0.0
        self._settled = threading.Event()
        """Whether a reading came, or will not come any more."""
        self.latest: Reading | None = None
        self.problem: str | None = None
        """Why there are no readings, or no more of them; None while all is well."""

    def start(self) -> None:
        """Begin to sample. Raises nothing: see `problem`."""
        self._started_s = self._clock()
        try:
            self._source = self._open()
        except ModuleNotFoundError:
            self.problem = "no tegrastats and no NVML: neither a Jetson, nor is nvidia-ml-py installed"
            return
        except (OSError, ImportError) as error:
            self.problem = str(error)
            return
        self._thread = threading.Thread(target=self._sample, args=(self._source,), name="telemetry", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> Reading | None:
        """Wait for the first reading, and return the latest; None if none came in time, or none will come."""
        if self._thread is not None:
            self._settled.wait(timeout_s)
        return self.latest

    def stop(self) -> None:
        """End sampling, its process and its thread; safe to call twice."""
        source, thread = self._source, self._thread
        self._source = self._thread = None
        if source is None or thread is None:
            return
        self._stopped_s = self._clock()
        source.close()
        thread.join(_JOIN_S)
        if not thread.is_alive():
            source.release()

    def _sample(self, source: Source) -> None:
        try:
            for reading in source.readings():
                with self._lock:
                    self._account.add(reading, self._clock())
                self.latest = reading
                self._settled.set()
        except Exception as error:  # a driver that fails must not take the run with it
            self.problem = f"{source.name}: {error}"
            return
        finally:
            self._settled.set()
        if self._source is not None:
            self.problem = f"{source.name} ended by itself"

    def document(self, *, frames: int | None = None) -> dict[str, Any]:
        """Return `{"telemetry": {...}}`, or `{}` if there is no reading.

        `frames` is how many reached the sinks while sampling; `joules_per_frame` counts what the device drew meanwhile.
        """
        seconds = (self._stopped_s or self._clock()) - self._started_s
        with self._lock:
            if not self._account.readings:
                return {}
            return {"telemetry": self._account.document(frames=frames, seconds=seconds)}

    def describe(self, *, frames: int | None = None) -> str:
        """Return the same for a person, in one line; empty if the device tells nothing that a person would read."""
        return describe_figures(self.document(frames=frames).get("telemetry", {}))

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
