"""What a backend for a GPU goes through on the simulator.

`python -m tests.runtime.device.drill LIBRARY BUNDLE REPORTS` does it to each planted mistake.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module, util
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import onnxruntime
from tests.runtime.device.fake_tensorrt import make_tensorrt
from tests.runtime.device.mistakes import MISTAKES, Mistake
from tests.runtime.device.simulator import OUT_OF_MEMORY, Simulator

from edgeseg.runtime.bundle import open_bundle

_GRACE_S = 0.2
_LIMIT_S = 60
_AT_ONCE = 4  # they mostly wait


def run_drill(sim: Simulator, bundle: Any, version: str, *, graph: bool) -> list[str]:
    """Take the backend through its life and its failures; returns the problems, none for a sound one."""
    drill = _Drill(sim, bundle, version, graph)
    found: list[str] = []
    with _warnings(found):
        for part in (
            drill.lives,
            drill.lives_without_copies,
            drill.survives_a_failed_inference,
            *([drill.survives_a_failed_capture] if graph else []),
            drill.tells_out_of_memory,
            drill.refuses_another_engine,
            drill.runs_two_at_once,
            drill.keeps_two_threads_apart,
            drill.waits_for_an_inference_to_close,
        ):
            sim.reset()
            drill.trt.fake_refuses_capture = False
            try:
                part()
            except Exception as error:
                drill.note(f"raised: {part.__name__}: {error!r}")
            gc.collect()
            found += [problem for problem in (*sim.problems(), *drill.noted) if problem not in found]
    return found


@contextmanager
def _warnings(found: list[str]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"not-given-back: {record.getMessage()}")

    handler, logger = Handler(logging.WARNING), logging.getLogger("edgeseg.runtime.backends")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Drill:
    def __init__(self, sim: Simulator, bundle: Any, version: str, graph: bool) -> None:
        self.graph = graph
        self.cuda = import_module("edgeseg.runtime.backends.cuda")
        self.tensorrt = import_module("edgeseg.runtime.backends.tensorrt")
        self.errors = import_module("edgeseg.runtime.errors")
        self.sim, self.contract, self.trt = sim, bundle.contract, make_tensorrt(version, sim)
        self.noted: list[str] = []
        model = bundle.model_path("fp32").read_bytes()
        self.plan = self._plan(model)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        numbers = np.random.default_rng(5)
        self.frames = [numbers.integers(0, 256, (1, *self.contract.size_hw, 3), np.uint8) for _ in range(3)]
        self.masks = [session.run(["mask"], {"frame": frame})[0] for frame in self.frames]

    def _plan(self, model: bytes) -> bytes:
        body: bytes = self.trt.__version__.encode() + b"\n" + model
        return hashlib.sha256(body).digest() + body

    def note(self, problem: str) -> None:
        self.noted.append(problem)

    def open(self, **options: Any) -> Any:
        gpu, options = self.cuda.open_gpu(), {"graph": self.graph, **options}
        return self.tensorrt.PlanRunner(self.trt, gpu, self.plan, self.contract, "fp32", **options)

    def check(self, runner: Any, index: int) -> Any:
        mask = runner.infer(self.frames[index])
        if not np.array_equal(mask, self.masks[index]):
            self.note("wrong-mask: other bytes than the engine gave")
        return mask

    def lives(self, **options: Any) -> None:
        runner = self.open(**options)
        self.in_thread(lambda: [self.check(runner, index) for index in (0, 1)])
        for frame in (self.frames[0][0], self.frames[0][:, 1:], self.frames[0].astype(np.int16)):
            self.expect_error("frame-not-refused", partial(runner.infer, frame))
        kept = self.check(runner, 2)
        before = kept.copy()
        self.in_thread(runner.close)
        runner.close()
        self.sim.problems()  # what is left now is a leak, though collecting garbage may mend it
        if not np.array_equal(kept, before):
            self.note("mask-changed: by close")
        self.expect_error("not-refused", lambda: runner.infer(self.frames[0]))

    def lives_without_copies(self) -> None:
        self.lives(zero_copy=True)

    def survives_a_failed_inference(self) -> None:
        for call in ("cuEventRecord", "cuGraphLaunch") if self.graph else ("launch",):
            runner = self.open()
            self.check(runner, 0)
            self.sim.fail(OUT_OF_MEMORY, call=call)
            self.expect_error("not-raised", partial(runner.infer, self.frames[1]))
            self.sim.fail(0, count=0)
            self.check(runner, 2)
            runner.close()

    def survives_a_failed_capture(self) -> None:
        self.sim.fail(OUT_OF_MEMORY, call="launch", count=2)  # the first is not captured
        self.expect_error("not-raised", self.open)
        self.sim.fail(0, count=0)
        self.trt.fake_refuses_capture = True
        self.expect_error("not-raised", self.open)
        runner = self.open(graph=None)
        runner.warm_up()
        self.check(runner, 0)
        runner.close()

    def tells_out_of_memory(self) -> None:
        of_graphs = ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate") if self.graph else ()
        for call in ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", *of_graphs):
            self.sim.fail(OUT_OF_MEMORY, call=call)
            error = self.expect_error("not-raised", self.open)
            self.sim.fail(0, count=0)
            if not isinstance(error, self.cuda.OutOfMemoryError):
                self.note(f"not-out-of-memory: {call} gave {error!r}")

    def refuses_another_engine(self) -> None:
        contract = self.contract
        self.contract = contract.model_copy(update={"height": contract.height // 2})
        try:
            self.open().close()
            self.note("wrong-engine: one of another size was taken")
        except self.errors.BackendError as error:
            if "the engine has" not in str(error):
                self.note(f"wrong-engine: noticed only later ({error})")
        finally:
            self.contract = contract

    def runs_two_at_once(self) -> None:
        first = self.open()
        thread = threading.Thread(target=lambda: [self.check(first, index % 3) for index in range(9)])
        thread.start()
        try:
            second = self.open()  # a capture of its own is no matter of the first one's
            for index in range(6):
                self.check(second, index % 3)
            second.close()
        finally:
            thread.join()
        first.close()

    def keeps_two_threads_apart(self) -> None:
        runner = self.open()
        self.overlap(lambda: _quietly(runner, self.frames[0]), lambda: _quietly(runner, self.frames[1]))
        runner.close()

    def waits_for_an_inference_to_close(self) -> None:
        runner = self.open()
        self.overlap(lambda: self.check(runner, 0), runner.close)
        runner.close()

    def overlap(self, infer: Callable[[], Any], other: Callable[[], Any]) -> None:
        """Do `other` while the engine runs for `infer`, each in a thread."""
        running, go_on = threading.Event(), threading.Event()

        def block() -> None:
            running.set()
            go_on.wait(2)

        self.trt.fake_before_run = block
        first, second = threading.Thread(target=infer), threading.Thread(target=other)
        first.start()
        running.wait(2)
        calls = self.sim.calls
        second.start()
        second.join(_GRACE_S)  # a sound one waits for the first; the other has enqueued by now
        if self.sim.calls != calls:
            self.note("overlapped: the GPU was called while an inference ran in another thread")
        self.trt.fake_before_run = None
        go_on.set()
        first.join()
        second.join()

    def in_thread(self, call: Callable[[], Any]) -> None:
        failures: list[BaseException] = []

        def run() -> None:
            try:
                call()
            except BaseException as error:
                failures.append(error)
            self.sim.lib.sim_thread_ends()  # a thread that ends with a context pushed takes the process with it

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    def expect_error(self, rule: str, call: Callable[[], Any]) -> Exception | None:
        try:
            call()
        except self.errors.BackendError as error:
            return error  # type: ignore[no-any-return]
        self.note(f"{rule}: no BackendError")
        return None


def _quietly(runner: Any, frame: Any) -> None:
    try:
        runner.infer(frame)
    except Exception:
        logging.getLogger(__name__).debug("infer failed", exc_info=True)


class _Planted(SourceFileLoader):
    """Loads a module from its source with the mistake in it."""

    def __init__(self, mistake: Mistake) -> None:
        spec = util.find_spec(mistake.module)
        assert spec is not None and spec.origin is not None
        super().__init__(mistake.module, spec.origin)
        source = Path(spec.origin).read_text(encoding="utf-8")
        assert mistake.old in source, f"{mistake.module} has no {mistake.old!r}"
        self.code = compile(source.replace(mistake.old, mistake.new), spec.origin, "exec")

    def get_code(self, fullname: str) -> CodeType:
        return self.code


class _Finder(MetaPathFinder):
    """Finds the planted module, and leaves all others to Python."""

    def __init__(self, planted: _Planted) -> None:
        self.planted = planted

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return util.spec_from_loader(fullname, self.planted) if fullname == self.planted.name else None


def plant(mistake: Mistake) -> None:
    """Have `mistake` in what is imported from now on."""
    sys.meta_path.insert(0, _Finder(_Planted(mistake)))
    for name in [name for name in sys.modules if name.startswith("edgeseg.runtime.backends")]:
        del sys.modules[name]  # what imported the sound one


def main(library: str, bundle: str, reports: str, *wanted: str) -> None:
    """Run the drill for the mistakes `wanted`, as NUMBER-PATH, each planted in a process of its own.

    Writes what it says to `reports`/NUMBER-PATH.
    """
    opened = open_bundle(bundle)
    sim = Simulator(Path(library))
    sim.echo()
    for index, name in enumerate(wanted):
        if index >= _AT_ONCE:
            os.wait()
        if os.fork() == 0:  # after all imports but before any thread
            with (Path(reports) / name).open("wb") as report:
                os.dup2(report.fileno(), 1)
                os.dup2(report.fileno(), 2)
            signal.alarm(_LIMIT_S)
            number, _, path = name.partition("-")
            plant(MISTAKES[int(number)])
            if path == "cuda-python":
                del import_module("edgeseg.runtime.backends.cuda").LIBRARIES["pycuda"]
            for problem in run_drill(sim, opened, "10.3.0", graph=path == "graph"):
                print(problem, flush=True)  # noqa: T201
            os._exit(0)
    for _ in wanted[-_AT_ONCE:]:
        os.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
