"""Calls of the CUDA driver through cuda-python's bindings, and what only they can do: graphs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any


class CallError(Exception):
    """A call of the driver's that did not succeed."""

    def __init__(self, function: str, code: Any) -> None:
        self.code = code
        super().__init__(f"{function} failed: {code.name}")

    @property
    def is_memory(self) -> bool:
        """Whether memory was lacking, and nothing else is wrong."""
        return bool(self.code.name == "CUDA_ERROR_OUT_OF_MEMORY")


class Driver:
    """`names` are the module's own: functions, enums and flags. Raises `ImportError` where cuda-python is missing."""

    def __init__(self) -> None:
        self.names: Any = import_module("cuda.bindings.driver")

    def call(self, function: str, *arguments: Any) -> Any:
        """Return what `function` gives beside its code: nothing (an empty list), one thing, or a list of several.

        Raises `CallError`.
        """
        code, *found = getattr(self.names, function)(*arguments)
        if code != self.names.CUresult.CUDA_SUCCESS:
            raise CallError(function, code)
        return found[0] if len(found) == 1 else found

    def record_graph(self, stream: int, work: Callable[[], None]) -> Any:
        """Return what `work` queues on `stream` as an executable graph; nothing of it happens now.

        Raises `CallError`, or what `work` raises, and leaves the stream as it was.
        """
        # Thread-local: what other threads do with the GPU meanwhile, a second engine say, is none of this capture's.
        self.call("cuStreamBeginCapture", stream, self.names.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            with suppress(CallError):  # it gives no graph where the failure has spoilt the capture
                self.call("cuGraphDestroy", self.call("cuStreamEndCapture", stream))
            raise
        graph = self.call("cuStreamEndCapture", stream)
        try:
            return self.call("cuGraphInstantiate", graph, 0)
        finally:
            with suppress(CallError):  # what was made of it must reach the caller all the same
                self.call("cuGraphDestroy", graph)
