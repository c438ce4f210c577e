"""Mistakes that a backend for a GPU can hold, each as an edit of the real one, with the rule that must catch it.

Written before the simulator, those of CUDA graphs before that learnt of graphs. `caught` is the rule of a problem that
`drill.run_drill` must report; each is planted on every path that it concerns: either CUDA library, or a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

_BACKENDS = "edgeseg.runtime.backends"
TENSORRT, CUDA = f"{_BACKENDS}.tensorrt", f"{_BACKENDS}.cuda"
PYCUDA, BINDINGS, DRIVER = f"{CUDA}.pycuda", f"{CUDA}.bindings", f"{CUDA}.driver"
GPU = f"{CUDA}.gpu"

PATHS = ("pycuda", "cuda-python", "graph")
"""What the drill runs over: a library, kernel by kernel, or a graph of cuda-python's on a stream of pycuda's."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """`old`, which occurs in the source of `module`, becomes `new`."""

    name: str
    module: str
    old: str
    new: str
    caught: tuple[str, ...]
    """Any of these rules, as a graph hides from some what shows in a chain of calls."""
    paths: tuple[str, ...]


def _mistake(name: str, module: str, old: str, new: str, *caught: str, paths: tuple[str, ...] = PATHS) -> Mistake:
    of_library = {PYCUDA: ("pycuda",), BINDINGS: ("cuda-python",), DRIVER: ("graph",)}
    return Mistake(name=name, module=module, old=old, new=new, caught=caught, paths=of_library.get(module, paths))


_COPY_IN = "            gpu.copy_in(self._frame, self._host_frame, stream)\n"
_COPY_OUT = (
    "            for name, memory in self._out.items():\n"
    "                gpu.copy_out(self._host_out[name], memory, stream)\n"
)
_ENQUEUE = (
    "        if not self._context.execute_async_v3(stream.handle):\n"
    '            raise _refusal("TensorRT did not run the engine", shared_logger(self._trt)[1].take())\n'
)
_BEFORE = "        if timed:\n            gpu.record(self._began, stream)\n        assert self._context is not None\n"
_RECORD, _WAIT = "        gpu.record(self._done, stream)\n", "        gpu.wait_event(self._done)\n"
_QUEUED = "        else:\n            self._queue()\n"
_CHAIN = ("pycuda", "cuda-python")

_INFERENCE = (
    _mistake("no wait", TENSORRT, _WAIT, "", "pending-host-write", "not-awaited"),
    _mistake("event never recorded", TENSORRT, _RECORD, "", "pending-host-write", "not-awaited"),
    _mistake(
        "event recorded before the work",
        TENSORRT,
        "        if graph is not None:\n            gpu.launch(graph, stream)\n" + _QUEUED + _RECORD,
        _RECORD + "        if graph is not None:\n            gpu.launch(graph, stream)\n" + _QUEUED,
        "wrong-mask",
        "not-awaited",
    ),
    _mistake(
        "event recorded before the copy out",
        TENSORRT,
        "        if not self.zero_copy:\n" + _COPY_OUT,
        "        gpu.record(self._done, stream)\n        gpu.record = lambda *_: None\n"
        "        if not self.zero_copy:\n" + _COPY_OUT,
        "wrong-mask",
        paths=_CHAIN,
    ),
    _mistake("no copy in", TENSORRT, _COPY_IN, "            pass\n", "uninitialised-read"),
    _mistake(
        "copy in after the enqueue",
        TENSORRT,
        "        if not self.zero_copy:\n" + _COPY_IN + _BEFORE + _ENQUEUE,
        _BEFORE + _ENQUEUE + "        if not self.zero_copy:\n" + _COPY_IN,
        "uninitialised-read",
    ),
    _mistake("no copy out", TENSORRT, _COPY_OUT, "            pass\n", "wrong-mask"),
    _mistake(
        "host memory written after the copy in was queued",
        TENSORRT,
        _QUEUED,
        _QUEUED + "        self._host_frame.array[:] += 1\n",
        "pending-host-write",
    ),
    _mistake(
        "mask read before the wait",
        TENSORRT,
        _WAIT,
        "        early = self._host_out['mask'].array.copy()\n"
        + _WAIT
        + "        self._host_out['mask'].array[:] = early\n",
        "wrong-mask",
    ),
    _mistake(
        "close gives nothing back",
        TENSORRT,
        "        while self._held:\n            self._held.pop().close()\n",
        "",
        "leak",
    ),
    _mistake(
        "buffer freed before the wait",
        TENSORRT,
        _RECORD,
        _RECORD + "        self._frame.close()\n",
        "freed-while-pending",
    ),
    _mistake(
        "a failure leaves what was queued pending",
        TENSORRT,
        "                    with suppress(BackendError):\n"
        "                        self._gpu.wait_stream(self._stream)\n                    raise\n",
        "                    raise\n",
        "pending-host-write",
    ),
    _mistake(
        "a failed enqueue is not noticed",
        TENSORRT,
        "        if not self._context.execute_async_v3(stream.handle):\n",
        "        if self._context.execute_async_v3(stream.handle) is None:\n",
        "not-raised",
        paths=_CHAIN,
    ),
    _mistake(
        "infer without the context",
        TENSORRT,
        "            with self._gpu.current():\n                try:\n                    yield\n",
        "            if True:\n                try:\n                    yield\n",
        "no-context",
    ),
    _mistake(
        "close without the context",
        TENSORRT,
        "            with self._gpu.current():\n                self._closed = True\n",
        "            if True:\n                self._closed = True\n",
        "no-context",
    ),
    _mistake(
        "frame's buffer too small",
        TENSORRT,
        "gpu.allocate(math.prod(self._shape), ",
        "gpu.allocate(math.prod(self._shape[:3]), ",
        "wrong-size",
    ),
    _mistake(
        "mask's buffer as for INT32",
        TENSORRT,
        "gpu.allocate(found.size, ",
        "gpu.allocate(4 * found.size, ",
        "wrong-size",
    ),
    _mistake(
        "addresses swapped",
        TENSORRT,
        '(("frame", self._frame), *self._out.items())',
        '(("frame", self._out["mask"]), ("mask", self._frame))',
        "wrong-size",
    ),
    _mistake(
        "mask's address never set",
        TENSORRT,
        '(("frame", self._frame), *self._out.items())',
        '(("frame", self._frame),)',
        "unset-address",
    ),
    _mistake(
        "host address given to TensorRT",
        TENSORRT,
        "self._context.set_tensor_address(name, memory.handle)",
        "self._context.set_tensor_address(name, self._host_frame.array.ctypes.data)",
        "wrong-size",
    ),
    _mistake(
        "enqueued on the default stream",
        TENSORRT,
        "execute_async_v3(stream.handle)",
        "execute_async_v3(0)",
        "default-stream",
    ),
    _mistake(
        "copy out on another stream",
        TENSORRT,
        "        if not self.zero_copy:\n" + _COPY_OUT,
        "        if not self.zero_copy:\n            stream = self._hold(gpu.stream())\n" + _COPY_OUT,
        "uninitialised-read",
        "never-waited-for",
    ),
    _mistake(
        "pinned memory handed out",
        TENSORRT,
        'return self._found["mask"]\n',
        'return self._host_out["mask"].array\n',
        "mask-changed",
    ),
    _mistake(
        "nothing keeps two threads apart",
        TENSORRT,
        "        with self._one_at_a_time:\n            if self._closed:",
        "        if True:\n            if self._closed:",
        "two-enqueues",
        "overlapped",
    ),
    _mistake(
        "close does not wait for an inference",
        TENSORRT,
        "        if not self._one_at_a_time.acquire(timeout=_BUSY_LIMIT_S):\n",
        "        self._one_at_a_time = threading.Lock()\n        if not self._one_at_a_time.acquire():\n",
        "overlapped",
    ),
    _mistake(
        "frames of any shape",
        TENSORRT,
        "        if frame.shape != self._shape or frame.dtype != np.uint8:\n",
        "        if frame.dtype != np.uint8:\n",
        "frame-not-refused",
    ),
    _mistake(
        "runtime given back before its engine",
        TENSORRT,
        "        self._context = None\n        self._engine = None\n        self._runtime = None\n",
        "        self._runtime = None\n        self._engine = None\n        self._context = None\n",
        "destroyed-order",
    ),
    _mistake(
        "an engine of another size is taken",
        TENSORRT,
        "        if found != expected:\n",
        "        if not found:\n",
        "wrong-engine",
    ),
    _mistake(
        "a new buffer for each frame",
        TENSORRT,
        _QUEUED,
        _QUEUED + "        self._more = [*getattr(self, '_more', []), gpu.allocate(64, 'x')]\n",
        "leak",
    ),
    _mistake(
        "time asked of events that have not happened",
        TENSORRT,
        _RECORD + _WAIT,
        _RECORD + "        self.backend_ms = gpu.elapsed_ms(self._began, self._ended)\n" + _WAIT,
        "not-awaited",
        paths=_CHAIN,
    ),
)

_EITHER_LIBRARY = (
    _mistake(
        "context left pushed",
        GPU,
        "        try:\n            yield\n        finally:\n            self._pop()\n",
        "        yield\n",
        "context-left-pushed",
    ),
    _mistake(
        "context popped only when all went well",
        GPU,
        "        try:\n            yield\n        finally:\n            self._pop()\n",
        "        yield\n        self._pop()\n",
        "context-left-pushed",
    ),
    _mistake(
        "the primary context retained at every opening",
        CUDA,
        "        if ordinal not in _opened:\n            _opened[ordinal] = _open(ordinal)\n"
        "        return _opened[ordinal]\n",
        "        return _open(ordinal)\n",
        "primary-retained",
    ),
    _mistake(
        "freed twice",
        GPU,
        "                release()\n",
        "                release()\n                release()\n",
        "not-given-back",
    ),
)

_PYCUDA = (
    _mistake(
        "a context of its own",
        PYCUDA,
        "self._context = device.retain_primary_context()",
        "self._context = device.make_context(); self._drv.Context.pop()",
        "private-context",
    ),
    _mistake(
        "pageable host memory",
        PYCUDA,
        "        return HostArray(address, array.base.free, array.base, array=array)\n",
        "        array.base.free()\n        return HostArray(address, None, array=np.empty(shape, np.uint8))\n",
        "pageable-async",
    ),
    _mistake(
        "mapped memory without its flag",
        PYCUDA,
        "flags = self._drv.host_alloc_flags.DEVICEMAP if mapped else 0",
        "flags = 0",
        "not-mapped",
    ),
    _mistake(
        "host memory of two bytes an element",
        PYCUDA,
        "pagelocked_empty(shape, np.uint8,",
        "pagelocked_empty(shape, np.uint16,",
        "overrun",
    ),
    _mistake(
        "out of memory told like a lost device",
        PYCUDA,
        "return isinstance(error, self._drv.MemoryError)",
        "return False",
        "not-out-of-memory",
    ),
    _mistake(
        "copies on the default stream",
        PYCUDA,
        "self._drv.memcpy_htod_async(memory.handle, host.array, stream._native)",
        "self._drv.memcpy_htod_async(memory.handle, host.array)",
        "uninitialised-read",
    ),
    _mistake(
        "events that cannot tell the time",
        PYCUDA,
        "self._counted(self._drv.Event(self._drv.event_flags.BLOCKING_SYNC))",
        "self._event()",
        "raised",
    ),
    _mistake(
        "a stream that is kept for good",
        PYCUDA,
        "            held._native = None\n",
        "            self._kept = [*getattr(self, '_kept', []), native]\n",
        "leak",
    ),
)

_CUDA_PYTHON = (
    _mistake(
        "a context of its own",
        BINDINGS,
        'self._context = self._call("cuDevicePrimaryCtxRetain", device)',
        'self._context = self._call("cuCtxCreate", None, 0, device); self._pop()',
        "private-context",
    ),
    _mistake(
        "codes that nobody looks at",
        DRIVER,
        "        if code != self.names.CUresult.CUDA_SUCCESS:\n",
        "        if False:\n",
        "not-raised",
        "raised",
    ),
    _mistake(
        "pageable host memory",
        BINDINGS,
        "        return HostArray(device_address, release, array=array)\n",
        "        release()\n        return HostArray(device_address, None, array=np.empty(shape, np.uint8))\n",
        "pageable-async",
    ),
    _mistake(
        "mapped memory without its flag",
        BINDINGS,
        "self._drv.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0)",
        "0)",
        "not-mapped",
    ),
    _mistake(
        "host memory that is too small",
        BINDINGS,
        'self._call("cuMemHostAlloc", size,',
        'self._call("cuMemHostAlloc", size // 2,',
        "overrun",
        "red-zone",
    ),
    _mistake(
        "out of memory told like a lost device",
        DRIVER,
        'return bool(self.code.name == "CUDA_ERROR_OUT_OF_MEMORY")',
        "return False",
        "not-out-of-memory",
    ),
    _mistake(
        "copies in on the default stream",
        BINDINGS,
        'self._call("cuMemcpyHtoDAsync", memory.handle, host.array.ctypes.data, host.array.nbytes, stream.handle)',
        'self._call("cuMemcpyHtoDAsync", memory.handle, host.array.ctypes.data, host.array.nbytes, 0)',
        "uninitialised-read",
    ),
    _mistake(
        "copies of too many bytes",
        BINDINGS,
        "host.array.ctypes.data, memory.handle, host.array.nbytes, stream.handle",
        "host.array.ctypes.data, memory.handle, host.array.nbytes + 1, stream.handle",
        "overrun",
    ),
    _mistake(
        "half of the mask copied",
        BINDINGS,
        "host.array.ctypes.data, memory.handle, host.array.nbytes, stream.handle",
        "host.array.ctypes.data, memory.handle, host.array.nbytes // 2, stream.handle",
        "wrong-mask",
    ),
    _mistake(
        "device memory freed as if it were the host's",
        BINDINGS,
        'lambda: self._call("cuMemFree", address)',
        'lambda: self._call("cuMemFreeHost", int(address))',
        "unknown-address",
    ),
    _mistake(
        "host memory never freed",
        BINDINGS,
        '            self._call("cuMemFreeHost", address)\n',
        "            pass\n",
        "leak",
    ),
    _mistake(
        "streams never destroyed",
        BINDINGS,
        'Held(int(stream), lambda: self._call("cuStreamDestroy", stream))',
        "Held(int(stream), None)",
        "leak",
    ),
    _mistake(
        "events never destroyed",
        BINDINGS,
        'CU_EVENT_DISABLE_TIMING))\n        return Held(int(event), lambda: self._call("cuEventDestroy", event))',
        "CU_EVENT_DISABLE_TIMING))\n        return Held(int(event), None)",
        "leak",
    ),
    _mistake(
        "context popped twice",
        BINDINGS,
        '        self._call("cuCtxPopCurrent")\n',
        '        self._call("cuCtxPopCurrent")\n        self._call("cuCtxPopCurrent")\n',
        "no-context",
    ),
    _mistake(
        "event waited for in another's place",
        BINDINGS,
        'self._call("cuEventSynchronize", event.handle)',
        'self._call("cuEventQuery", event.handle)',
        "wrong-mask",
        "not-awaited",
        "raised",
    ),
)

_GRAPH = (
    _mistake(
        "recorded before the first enqueue",
        TENSORRT,
        "        self._run()  # TensorRT puts off",
        "        # TensorRT puts off",
        "captured-cold",
        paths=("graph",),
    ),
    _mistake(
        "captured for all threads",
        DRIVER,
        "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL",
        "CU_STREAM_CAPTURE_MODE_GLOBAL",
        "capture-mode",
    ),
    _mistake(
        "captured with no rules",
        DRIVER,
        "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL",
        "CU_STREAM_CAPTURE_MODE_RELAXED",
        "capture-mode",
    ),
    _mistake(
        "capture left open when the enqueue fails",
        DRIVER,
        '                self.call("cuGraphDestroy", self.call("cuStreamEndCapture", stream))\n',
        "                pass\n",
        "capture-left-open",
    ),
    _mistake(
        "what was captured before a failure is kept",
        DRIVER,
        '                self.call("cuGraphDestroy", self.call("cuStreamEndCapture", stream))\n',
        '                self.call("cuStreamEndCapture", stream)\n',
        "leak",
    ),
    _mistake(
        "graph never destroyed",
        DRIVER,
        '                self.call("cuGraphDestroy", graph)\n',
        "                pass\n",
        "leak",
    ),
    _mistake(
        "executable graph never destroyed",
        TENSORRT,
        "        if self._graph is not None:\n            self._graph.close()\n",
        "",
        "leak",
        paths=("graph",),
    ),
    _mistake(
        "graph destroyed twice",
        DRIVER,
        '                self.call("cuGraphDestroy", graph)\n',
        '                self.call("cuGraphDestroy", graph); self.call("cuGraphDestroy", graph)\n',
        "use-after-free",
    ),
    _mistake(
        "instantiated after the graph was destroyed",
        DRIVER,
        '            return self.call("cuGraphInstantiate", graph, 0)\n',
        '            self.call("cuGraphDestroy", graph)\n'
        '            return self.call("cuGraphInstantiate", graph, 0)\n',
        "use-after-free",
    ),
    _mistake(
        "graph destroyed before the wait",
        TENSORRT,
        "            gpu.launch(graph, stream)\n",
        "            gpu.launch(graph, stream)\n            graph.close()\n",
        "destroyed-while-pending",
        paths=("graph",),
    ),
    _mistake(
        "graph given back after the execution context",
        TENSORRT,
        "        if self._graph is not None:\n            self._graph.close()\n        self._context = None\n",
        "        self._context = None\n        if self._graph is not None:\n            self._graph.close()\n",
        "destroyed-order",
        paths=("graph",),
    ),
    _mistake(
        "launched on the default stream",
        GPU,
        'self._recorder.call("cuGraphLaunch", graph.handle, stream.handle)',
        'self._recorder.call("cuGraphLaunch", graph.handle, 0)',
        "default-stream",
        paths=("graph",),
    ),
    _mistake(
        "launched on another stream",
        TENSORRT,
        "            gpu.launch(graph, stream)\n",
        "            gpu.launch(graph, self._hold(gpu.stream()))\n",
        "pending-host-write",
        "wrong-mask",
        paths=("graph",),
    ),
    _mistake(
        "stream waited for in the capture",
        TENSORRT,
        "        assert self._context is not None\n" + _ENQUEUE[: _ENQUEUE.index("\n") + 1],
        "        assert self._context is not None\n        if not timed:\n            gpu.wait_stream(stream)\n"
        + _ENQUEUE[: _ENQUEUE.index("\n") + 1],
        "capture-broken",
        paths=("graph",),
    ),
    _mistake(
        "memory allocated in the capture",
        TENSORRT,
        "        assert self._context is not None\n" + _ENQUEUE[: _ENQUEUE.index("\n") + 1],
        "        assert self._context is not None\n"
        "        if not timed:\n            self._hold(gpu.allocate(64, 'x'))\n" + _ENQUEUE[: _ENQUEUE.index("\n") + 1],
        "capture-broken",
        paths=("graph",),
    ),
    _mistake(
        "the event that is waited for recorded into the graph",
        TENSORRT,
        "partial(self._queue, timed=False))\n",
        "lambda: (self._queue(timed=False), self._gpu.record(self._done, self._stream)))\n"
        "        self._gpu.wait_event(self._done)\n",
        "captured-event",
        paths=("graph",),
    ),
    _mistake(
        "times asked of events in the graph",
        TENSORRT,
        "partial(self._queue, timed=False))\n",
        "self._queue)\n        self.by_graph = False\n"
        "        self.backend_ms = self._gpu.elapsed_ms(self._began, self._ended)\n",
        "captured-event",
        paths=("graph",),
    ),
    _mistake(
        "buffers made anew after the capture",
        TENSORRT,
        "partial(self._queue, timed=False))\n",
        "partial(self._queue, timed=False))\n        self._frame.close()\n        self._make_buffers()\n",
        "use-after-free",
        paths=("graph",),
    ),
    _mistake(
        "captured nothing",
        TENSORRT,
        "partial(self._queue, timed=False))\n",
        "lambda: None)\n",
        "empty-graph",
        paths=("graph",),
    ),
    _mistake(
        "a graph for each frame",
        TENSORRT,
        "            gpu.launch(graph, stream)\n",
        "            gpu.launch(graph, stream)\n            gpu.wait_stream(stream)\n"
        "            self.by_graph = False\n"
        "            self._record_graph()\n            self.by_graph = True\n            gpu.launch(graph, stream)\n",
        "leak",
        paths=("graph",),
    ),
    _mistake(
        "capture ended in another thread",
        DRIVER,
        '        graph = self.call("cuStreamEndCapture", stream)\n        try:\n',
        "        import threading\n\n        found, context = [], self.call('cuCtxGetCurrent')\n"
        "        def end():\n            self.call('cuCtxPushCurrent', context)\n"
        "            found.append(self.names.cuStreamEndCapture(stream)[1])\n            self.call('cuCtxPopCurrent')\n"
        "        ending = threading.Thread(target=end)\n"
        "        ending.start()\n        ending.join()\n        graph = found[0]\n        try:\n",
        "capture-thread",
    ),
    _mistake(
        "a launch that fails is not noticed",
        GPU,
        '            self._recorder.call("cuGraphLaunch", graph.handle, stream.handle)\n',
        "            self._recorder.names.cuGraphLaunch(graph.handle, stream.handle)\n",
        "not-raised",
        paths=("graph",),
    ),
)

MISTAKES = (*_INFERENCE, *_EITHER_LIBRARY, *_PYCUDA, *_CUDA_PYTHON, *_GRAPH)
