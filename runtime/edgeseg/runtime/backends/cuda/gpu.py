"""What a backend needs of CUDA, whichever library it comes through.

The primary context is retained once in a process and kept: making one takes most of a second, every library shares
it, and pycuda neither gives it back from another thread than the one that took it, nor leaves it popped when it does.
All else belongs to whoever asked for it, and is given back by `close` with the context current.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.runtime.backends.cuda.driver import CallError, Driver
from edgeseg.runtime.errors import BackendError

_log = logging.getLogger(__name__)

_FREE_FIX = "end other programs that use the GPU, or use a smaller network or another --backend"
_LOST_FIX = "restart the program; if it happens again look into dmesg, and check power supply and cooling"


class OutOfMemoryError(BackendError):
    """The GPU has not enough memory; nothing is lost but what was asked for."""


@dataclass
class Held:
    """Something of the GPU's. `handle` is a device address, a stream, an event or a graph as an integer."""

    handle: int
    _release: Callable[[], None] | None
    _native: Any = None

    def close(self) -> None:
        """Give it back, with the context current; safe to call twice. A GPU that is lost has nothing to give back."""
        release, self._release = self._release, None
        if release is not None:
            try:
                release()
            except Exception as error:
                _log.warning("the GPU did not take something back: %s", error)


def abandon(*objects: object) -> None:
    """Keep `objects` to the process's end, destructors unrun: on a GPU that is lost pycuda's abort the process."""
    for one in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


@dataclass
class HostArray(Held):
    """Pinned host memory as an array. `handle` is its address for the GPU if it is mapped, else 0."""

    array: NDArray[np.uint8] = None  # type: ignore[assignment]


class Gpu:
    """One GPU through one CUDA library. Everything but the properties wants `current()` around it."""

    library: str
    name: str
    capability: str
    """As NVIDIA writes it: "8.7"."""
    integrated: bool
    """Whether it shares the host's memory, as a Jetson's does."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current in this thread for a block."""
        with self._told("make the context current"):
            self._push()
        try:
            yield
        finally:
            self._pop()

    def free_memory(self) -> tuple[int, int]:
        """Return (free, all) bytes of the GPU's memory."""
        with self._told("ask for free memory"):
            return self._memory()

    def allocate(self, size: int, purpose: str) -> Held:
        """Return `size` bytes of the GPU's memory. Raises `OutOfMemoryError` naming the purpose."""
        with self._told(f"allocate {size} bytes for {purpose}"):
            return self._allocate(size)

    def host_array(self, shape: tuple[int, ...], purpose: str, *, mapped: bool = False) -> HostArray:
        """Return pinned host memory, uint8, `mapped` for the GPU to read and write without a copy."""
        with self._told(f"pin {int(np.prod(shape))} bytes for {purpose}"):
            return self._host_array(shape, mapped)

    def stream(self) -> Held:
        """Return a stream."""
        with self._told("make a stream"):
            return self._stream()

    def event(self) -> Held:
        """Return an event that is waited for asleep: a spinning wait takes a core from camera and sinks."""
        with self._told("make an event"):
            return self._event()

    def timed_event(self) -> Held:
        """Return an event that also notes when it happened, for `elapsed_ms`."""
        with self._told("make an event"):
            return self._timed_event()

    def elapsed_ms(self, began: Held, ended: Held) -> float:
        """Return the milliseconds on the GPU's clock between two timed events, both of which have happened."""
        with self._told("read the time of an event"):
            return self._elapsed_ms(began, ended)

    def copy_in(self, memory: Held, host: HostArray, stream: Held) -> None:
        """Queue a copy of `host`, which must not be written before the stream has been waited for."""
        with self._told("copy to the GPU"):
            self._copy_in(memory, host, stream)

    def copy_out(self, host: HostArray, memory: Held, stream: Held) -> None:
        """Queue a copy into `host`, which holds nothing of use before the stream has been waited for."""
        with self._told("copy from the GPU"):
            self._copy_out(host, memory, stream)

    def record(self, event: Held, stream: Held) -> None:
        """Queue `event`: it happens when all that was queued before it is done."""
        with self._told("record an event"):
            self._record(event, stream)

    def wait_event(self, event: Held) -> None:
        """Wait until `event` has happened. An event that was never recorded counts as happened."""
        with self._told("wait for the GPU"):
            self._wait_event(event)

    def wait_stream(self, stream: Held) -> None:
        """Wait until all that was queued is done."""
        with self._told("wait for the GPU"):
            self._wait_stream(stream)

    @cached_property
    def can_record(self) -> bool:
        """Whether `record_graph` can be called: cuda-python is there."""
        return self._recorder is not None

    @cached_property
    def _recorder(self) -> Driver | None:
        try:
            return Driver()
        except ImportError:
            return None

    def record_graph(self, stream: Held, work: Callable[[], None]) -> Held:
        """Return what `work` queues on `stream` as one graph; nothing of it happens before `launch`.

        It holds addresses: what it copies from and to must outlive it. Raises what `work` raises, and `BackendError`
        for what cannot be in a graph, and where cuda-python is missing.
        """
        recorder = self._recorder
        if recorder is None:
            raise BackendError("a CUDA graph needs cuda-python", fix="pip install cuda-python, or ask for no graph")
        with self._told("make a CUDA graph"):
            graph = recorder.record_graph(stream.handle, work)
        return Held(int(graph), lambda: recorder.call("cuGraphExecDestroy", graph))

    def launch(self, graph: Held, stream: Held) -> None:
        """Queue all of `graph`."""
        assert self._recorder is not None
        with self._told("launch a CUDA graph"):
            self._recorder.call("cuGraphLaunch", graph.handle, stream.handle)

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except BackendError:
            raise
        except Exception as error:  # each library has classes of its own
            if self._is_memory(error) or (isinstance(error, CallError) and error.is_memory):
                raise OutOfMemoryError(f"the GPU is out of memory: cannot {doing} ({error})", fix=_FREE_FIX) from error
            raise BackendError(f"the GPU failed: cannot {doing} ({error})", fix=_LOST_FIX) from error

    _push: Callable[[], None]
    _pop: Callable[[], None]
    _memory: Callable[[], tuple[int, int]]
    _allocate: Callable[[int], Held]
    _host_array: Callable[[tuple[int, ...], bool], HostArray]
    _stream: Callable[[], Held]
    _event: Callable[[], Held]
    _timed_event: Callable[[], Held]
    _elapsed_ms: Callable[[Held, Held], float]
    _copy_in: Callable[[Held, HostArray, Held], None]
    _copy_out: Callable[[HostArray, Held, Held], None]
    _record: Callable[[Held, Held], None]
    _wait_event: Callable[[Held], None]
    _wait_stream: Callable[[Held], None]

    def _is_memory(self, error: Exception) -> bool:
        """Whether the library's own `error` says that memory was lacking."""
        return False
