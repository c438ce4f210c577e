"""A sink with a slot and a thread of its own, so that no sink waits for another and a live loop waits for none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeseg.runtime.frame import Result
from edgeseg.runtime.sinks import Sink
from edgeseg.runtime.slot import Policy, Slot


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkReport:
    """What became of the results that one sink was offered."""

    sink: str
    """What the user asked for."""
    frames: int
    """How many it took."""
    dropped: int
    """How many it was too slow for, or too broken."""
    error: str = ""
    """Why it was taken out of the run; empty if it was not."""

    def document(self) -> dict[str, str | int]:
        """Return the fields as JSON's types, without an empty error."""
        fields: dict[str, str | int] = {"sink": self.sink, "frames": self.frames, "dropped": self.dropped}
        return {**fields, "error": self.error} if self.error else fields


class Outlet:
    """Runs one sink. `offer` is for the thread that has results; `on_end` is called in the sink's own, at its end.

    It has a lane for each camera whose results it is offered, so that none of them crowds out another.
    """

    def __init__(self, sink: Sink, policies: Mapping[int, Policy], on_end: Callable[[Outlet], None]) -> None:
        """Take results of the cameras that `policies` has."""
        self.sink = sink
        self.keeps_all = Policy.EVERY in policies.values()
        """Whether some of what it is offered must not be lost."""
        self.error: BaseException | None = None
        """What the sink raised first, in `write` or in `close`."""
        self.writing_since_s: float | None = None
        """When (monotonic) the sink was given the result that it has now; None between two."""
        self._lanes = {camera: lane for lane, camera in enumerate(policies)}
        self._slot: Slot[Result] = Slot(*policies.values())
        self._on_end = on_end
        self._refused = self._written = self._lost = 0
        # A daemon, so that a sink that never returns cannot keep the process alive.
        self.thread = threading.Thread(target=self._run, name=f"edgeseg-sink-{sink.spec}", daemon=True)

    def offer(self, result: Result) -> bool:
        """Hand `result` over, waiting for room if no frame may be lost. Returns False once the sink takes no more."""
        taken = self._slot.put(result, self._lanes[result.camera])
        self._refused += not taken
        return taken

    def finish(self) -> None:
        """Let the sink write what it has accepted, and close it."""
        self._slot.close()

    def report(self) -> SinkReport:
        """Return the counts so far. A frame that is being written counts as dropped until it is."""
        error = f"{type(self.error).__name__}: {self.error}" if self.error else ""
        return SinkReport(
            sink=self.sink.spec,
            frames=self._written,
            dropped=self._slot.dropped + self._refused + self._lost,
            error=" ".join(error.split()),
        )

    def _run(self) -> None:
        for step in (self._write_all, self._slot.close, self._drain, self.sink.close):
            try:
                step()
            except BaseException as error:
                self.error = self.error or error
        self.writing_since_s = None
        self._on_end(self)

    def _write_all(self) -> None:
        while (result := self._slot.get()) is not None:
            self._lost += 1
            self.writing_since_s = time.monotonic()
            self.sink.write(result)
            self.writing_since_s = None
            self._lost -= 1
            self._written += 1

    def _drain(self) -> None:
        while self._slot.get() is not None:
            self._lost += 1
