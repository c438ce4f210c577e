"""What a run is steered by from outside: limits of patience, a request to stop, and how its failures are named."""

from __future__ import annotations

import queue
from contextlib import suppress
from dataclasses import dataclass

from edgeseg.runtime.errors import BackendError, EdgesegError, SinkError, SourceError

_ERRORS: dict[str, type[EdgesegError]] = {"capture": SourceError, "inference": BackendError, "sinks": SinkError}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a run waits, in seconds, for what does not answer. What is given up on dies with the process."""

    inference_s: float = 10.0
    """For one inference, before the run fails. Warming up is not limited: engines may be built then."""
    failed_s: float = 0.8
    """For capture and inference, once the run has failed."""
    failed_sinks_s: float = 10.0
    """For the sinks then, which may have much to bring to disk, and whose output is lost otherwise."""
    sinks_s: float = 60.0
    """For the sinks after a run without failure."""


class Stop:
    """Asks one run to end after the frames in flight.

    `set` may be called from any thread and from a signal handler. The latter rules out `threading.Event`: a signal
    that arrives while the main thread holds the event's lock would wait for itself.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Ask for the end."""
        self._requests.put(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until someone asks, and return whether one did within `timeout_s`. Signals are handled meanwhile."""
        with suppress(queue.Empty):
            self._requests.get(timeout=timeout_s)
            return True
        return False


def name_stage(name: str, error: BaseException) -> EdgesegError:
    """Return `error` with its stage: of its own class where it is one of ours."""
    if isinstance(error, EdgesegError):
        return type(error)(f"{name} stage: {error.found}", expected=error.expected, fix=error.fix)
    return _ERRORS[name](f"{name} stage: {type(error).__name__}: {error}")
