"""Mistakes that a backend for a GPU can hold, each as an edit of the real one, with the rule that must catch it.

Written before the simulator. `caught` is the beginning of a problem that `drill.run_drill` must report.
"""

from __future__ import annotations

from dataclasses import dataclass

TENSORRT, CUDA = "edgeseg.runtime.backends.tensorrt", "edgeseg.runtime.backends.cuda"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """`old`, which occurs in the source of `module`, becomes `new`."""

    name: str
    module: str
    old: str
    new: str
    caught: str


def _mistake(name: str, module: str, old: str, new: str, caught: str) -> Mistake:
    return Mistake(name=name, module=module, old=old, new=new, caught=caught)


MISTAKES = (
    _mistake("no wait", TENSORRT, "        gpu.wait_event(self._done)\n", "", "pending-host-write"),
    _mistake("event never recorded", TENSORRT, "        gpu.record(self._done, stream)\n", "", "pending-host-write"),
    _mistake(
        "event recorded before the copy out",
        TENSORRT,
        "        if not self._zero_copy:\n            gpu.copy_out(self._host_mask, self._mask_out, stream)\n"
        "        gpu.record(self._done, stream)\n",
        "        gpu.record(self._done, stream)\n        if not self._zero_copy:\n"
        "            gpu.copy_out(self._host_mask, self._mask_out, stream)\n",
        "wrong-mask",
    ),
    _mistake(
        "event recorded before the enqueue",
        TENSORRT,
        "        assert self._context is not None\n        if not self._context.execute",
        "        gpu.record(self._done, stream)\n        gpu.record = lambda *_: None\n"
        "        assert self._context is not None\n        if not self._context.execute",
        "wrong-mask",
    ),
    _mistake(
        "no copy in",
        TENSORRT,
        "            gpu.copy_in(self._frame, self._host_frame, stream)\n",
        "            pass\n",
        "uninitialised-read",
    ),
    _mistake(
        "copy in after the enqueue",
        TENSORRT,
        "        if not self._zero_copy:\n            gpu.copy_in(self._frame, self._host_frame, stream)\n"
        "        assert self._context is not None\n"
        "        if not self._context.execute_async_v3(stream.handle):\n"
        '            raise _refusal("TensorRT did not run the engine", shared_logger(self._trt)[1].take())\n',
        "        if not self._context.execute_async_v3(stream.handle):\n"
        '            raise _refusal("TensorRT did not run the engine", shared_logger(self._trt)[1].take())\n'
        "        if not self._zero_copy:\n            gpu.copy_in(self._frame, self._host_frame, stream)\n",
        "uninitialised-read",
    ),
    _mistake(
        "no copy out",
        TENSORRT,
        "            gpu.copy_out(self._host_mask, self._mask_out, stream)\n",
        "            pass\n",
        "wrong-mask",
    ),
    _mistake(
        "host memory written after the copy in was queued",
        TENSORRT,
        "            gpu.copy_in(self._frame, self._host_frame, stream)\n",
        "            gpu.copy_in(self._frame, self._host_frame, stream)\n            self._host_frame.array[:] += 1\n",
        "pending-host-write",
    ),
    _mistake(
        "mask read before the wait",
        TENSORRT,
        "        gpu.wait_event(self._done)\n",
        "        early = self._host_mask.array.copy()\n        gpu.wait_event(self._done)\n"
        "        self._host_mask.array[:] = early\n",
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
        "        gpu.record(self._done, stream)\n",
        "        gpu.record(self._done, stream)\n        self._frame.close()\n",
        "freed-while-pending",
    ),
    _mistake(
        "a failed enqueue leaves its copy pending",
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
    ),
    _mistake(
        "infer without the context",
        TENSORRT,
        "            with self._gpu.current():\n                try:\n                    np.copyto(self._host_frame",
        "            if True:\n                try:\n                    np.copyto(self._host_frame",
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
        "context left pushed",
        CUDA,
        "        try:\n            yield\n        finally:\n            self._pop()\n",
        "        yield\n",
        "context-left-pushed",
    ),
    _mistake(
        "context popped only when all went well",
        CUDA,
        "        try:\n            yield\n        finally:\n            self._pop()\n",
        "        yield\n        self._pop()\n",
        "context-left-pushed",
    ),
    _mistake(
        "a context of its own",
        CUDA,
        "self._context = device.retain_primary_context()",
        "self._context = device.make_context(); self._drv.Context.pop()",
        "private-context",
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
        "frame's buffer too small",
        TENSORRT,
        "gpu.allocate(math.prod(self._shape), ",
        "gpu.allocate(math.prod(self._shape[:3]), ",
        "wrong-size",
    ),
    _mistake(
        "mask's buffer as for INT32",
        TENSORRT,
        "gpu.allocate(math.prod(self._shape[:3]), ",
        "gpu.allocate(4 * math.prod(self._shape[:3]), ",
        "wrong-size",
    ),
    _mistake(
        "addresses swapped",
        TENSORRT,
        '(("frame", self._frame), ("mask", self._mask_out))',
        '(("frame", self._mask_out), ("mask", self._frame))',
        "wrong-size",
    ),
    _mistake(
        "mask's address never set",
        TENSORRT,
        '(("frame", self._frame), ("mask", self._mask_out))',
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
        "pageable host memory",
        CUDA,
        "        return HostArray(address, array.base.free, array.base, array=array)\n",
        "        array.base.free()\n        return HostArray(address, None, array=np.empty(shape, np.uint8))\n",
        "pageable-async",
    ),
    _mistake(
        "mapped memory without its flag",
        CUDA,
        "flags = self._drv.host_alloc_flags.DEVICEMAP if mapped else 0",
        "flags = 0",
        "not-mapped",
    ),
    _mistake(
        "host memory of two bytes an element",
        CUDA,
        "pagelocked_empty(shape, np.uint8,",
        "pagelocked_empty(shape, np.uint16,",
        "overrun",
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
        "            gpu.copy_out(self._host_mask, self._mask_out, stream)\n        gpu.record(self._done, stream)\n",
        "            stream = self._hold(gpu.stream())\n"
        "            gpu.copy_out(self._host_mask, self._mask_out, stream)\n        gpu.record(self._done, stream)\n",
        "uninitialised-read",
    ),
    _mistake(
        "pinned memory handed out",
        TENSORRT,
        "        return self._mask\n",
        "        return self._host_mask.array\n",
        "mask-changed",
    ),
    _mistake(
        "nothing keeps two threads apart",
        TENSORRT,
        "        with self._one_at_a_time:\n            if self._closed:",
        "        if True:\n            if self._closed:",
        "two-enqueues",
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
        "freed twice",
        CUDA,
        "                release()\n",
        "                release()\n                release()\n",
        "not-given-back",
    ),
    _mistake(
        "runtime given back before its engine",
        TENSORRT,
        "        self._context = None\n        self._engine = None\n        self._runtime = None\n",
        "        self._runtime = None\n        self._engine = None\n        self._context = None\n",
        "destroyed-order",
    ),
    _mistake(
        "out of memory told like a lost device",
        CUDA,
        "return isinstance(error, self._drv.MemoryError)",
        "return False",
        "not-out-of-memory",
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
        "        gpu, stream = self._gpu, self._stream\n",
        "        gpu, stream = self._gpu, self._stream\n"
        "        self._more = [*getattr(self, '_more', []), gpu.allocate(64, 'x')]\n",
        "leak",
    ),
)
