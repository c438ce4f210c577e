"""A sink with a slot and a thread of its own, so that no sink waits for another and a live loop waits for none."""

from __future__ import annotations

import threading
from collections.abc import Callable
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
    """Runs one sink. `offer` is for the thread that has results; `on_end` is called in the sink's own, at its end."""

    def __init__(self, sink: Sink, policy: Policy, on_end: Callable[[Outlet], None]) -> None:
        self.sink = sink
        self.error: BaseException | None = None
        """What the sink raised first, in `write` or in `close`."""
        self._slot: Slot[Result] = Slot(policy)
        self._on_end = on_end
        self._refused = self._written = self._lost = 0
        # A daemon, so that a sink that never returns cannot keep the process alive.
        self.thread = threading.Thread(target=self._run, name=f"edgeseg-sink-{sink.spec}", daemon=True)

    def offer(self, result: Result) -> bool:
        """Hand `result` over, waiting for room if no frame may be lost. Returns False once the sink takes no more."""
        taken = self._slot.put(result)
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
        self._on_end(self)

    def _write_all(self) -> None:
        while (result := self._slot.get()) is not None:
            self._lost += 1
            self.sink.write(result)
            self._lost -= 1
            self._written += 1

    def _drain(self) -> None:
        while self._slot.get() is not None:
            self._lost += 1
