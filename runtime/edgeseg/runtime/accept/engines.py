"""What becomes of engines on this device: kept, refused, built again, and given back."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgeseg.runtime.accept.line import Verdict, judge, not_run
from edgeseg.runtime.accept.trial import Trial, medians_ms
from edgeseg.runtime.backends.options import BackendOptions
from edgeseg.runtime.backends.tensorrt import PlanRunner
from edgeseg.runtime.engine.cache import SealedFolder, cache_folder
from edgeseg.runtime.engine.choice import Engines
from edgeseg.runtime.first_use import least_agreement

_NO_GPU = "it needs TensorRT and a GPU"
_LOGGER = "edgeseg.runtime.engine"
_LOST_BYTES = 64 << 20
"""More than this gone after engines were closed is a leak, not another program's doing."""


class _Watched(SealedFolder):
    """Tells what was saved in it, and under which facts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.saved: list[tuple[str, Mapping[str, str]]] = []

    def save(self, name: str, facts: Mapping[str, str], data: bytes) -> None:
        if name.endswith(".plan"):
            self.saved.append((name, facts))
        super().save(name, facts, data)


class EngineCases:
    """Plans that must be used again and plans that must be built again, tried on copies.

    In a folder of its own beside the engines, with the device's key and its timing cache but none of its plans: what
    the service runs from is never touched.
    """

    def __init__(self, trial: Trial, stack: ExitStack) -> None:
        self._trial, self._stack = trial, stack
        self._folder: _Watched | None = None
        self._sound = b""
        """The sealed file as it was built, which each case begins with."""

    def steps(self) -> list[tuple[str, Callable[[], Verdict]]]:
        """Return the cases by name."""
        cases: dict[str, tuple[Callable[[], None], str]] = {
            "engine cut short": (self._cut, "truncated"),
            "engine with a wrong tag": (self._alter, "wrong tag"),
            "engine of another TensorRT": (self._seal_for_another, "was made for TensorRT"),
        }
        return [
            ("engine used again", self._use_again),
            *((name, partial(self._build_again, spoil, reason)) for name, (spoil, reason) in cases.items()),
        ]

    def _use_again(self) -> Verdict:
        if self._trial.subject.gpu is None:
            return not_run(_NO_GPU)
        folder = self._open_folder()
        built = len(folder.saved)
        self._plan()
        found = "the second start found the engine of the first" if len(folder.saved) == built else "it was built twice"
        return judge(len(folder.saved) == built, found, fix="report it with this page")

    def _build_again(self, spoil: Callable[[], None], reason: str) -> Verdict:
        if self._trial.subject.gpu is None:
            return not_run(_NO_GPU)
        folder = self._open_folder()
        self._path().write_bytes(self._sound)
        spoil()
        built = len(folder.saved)
        with _listening() as said:
            plan = self._plan()
        told = next((line for line in said if reason in line), "")
        right = self._gives_golden(plan)
        flaws = {
            "the spoilt engine was used": len(folder.saved) == built,
            "the log does not say why": not told,
            "the new engine does not give the golden frames": not right,
        }
        found = "; ".join(flaw for flaw, there in flaws.items() if there)
        return judge(not found, found or f"built again, and the log said: {told}", fix="report it with this page")

    def _open_folder(self) -> _Watched:
        if self._folder is None:
            kept = cache_folder()
            kept.mkdir(parents=True, exist_ok=True, mode=0o700)
            scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=kept, prefix=".accept-")))
            for path in (*kept.glob("key"), *kept.glob("*.timing")):
                shutil.copy2(path, scratch)  # with its mode: the key must stay readable by this user alone
            self._folder = _Watched(scratch)
            self._plan()
            self._sound = self._path().read_bytes()
        return self._folder

    def _plan(self) -> bytes:
        subject = self._trial.subject
        assert subject.gpu is not None
        engines = Engines(subject.trt, subject.gpu, self._open_folder())
        return engines.plan(self._trial.bundle, self._trial.precisions[0])

    def _gives_golden(self, plan: bytes) -> bool:
        subject, bundle, precision = self._trial.subject, self._trial.bundle, self._trial.precisions[0]
        assert subject.gpu is not None
        runner = PlanRunner(subject.trt, subject.gpu, plan, bundle.contract, precision)
        try:
            required = bundle.manifest.golden.agreement.get(precision, 0.0)  # type: ignore[call-overload]
            return bool(least_agreement(bundle, runner) >= required)
        finally:
            runner.close()

    def _path(self) -> Path:
        return next(self._open_folder().folder.glob("*.plan"))

    def _cut(self) -> None:
        self._path().write_bytes(self._path().read_bytes()[:-7])

    def _alter(self) -> None:
        sealed = bytearray(self._path().read_bytes())
        sealed[-1] ^= 1
        self._path().write_bytes(sealed)

    def _seal_for_another(self) -> None:
        folder = self._open_folder()
        name, facts = folder.saved[-1]
        SealedFolder(folder.folder).save(name, {**facts, "TensorRT": "tensorrt 0.0.0"}, folder.load(name, facts))


def compare_zero_copy(trial: Trial) -> Verdict:
    """Time the two ways of a frame to an integrated GPU in turns; they must give the same mask."""
    gpu = trial.subject.gpu
    if gpu is None:
        return not_run(_NO_GPU)
    if not gpu.integrated:
        return not_run(f"{gpu.name} has memory of its own: frames must be copied")
    copying, sharing = (BackendOptions(zero_copy=zero_copy, graph=False) for zero_copy in (False, True))
    return _compare(trial, "copying", copying, "zero-copy", sharing)


def compare_graph(trial: Trial) -> Verdict:
    """Time launching kernel by kernel and as one CUDA graph in turns; they must give the same mask."""
    if trial.subject.gpu is None:
        return not_run(_NO_GPU)
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return not_run("a CUDA graph needs cuda-python, which is not installed: pip install cuda-python")
    return _compare(trial, "without", BackendOptions(graph=False), "graph", BackendOptions(graph=True))


def _compare(trial: Trial, plain: str, plainly: BackendOptions, other: str, otherwise: BackendOptions) -> Verdict:
    precision, frame = trial.precisions[0], trial.a_frame()
    with trial.opened(precision, plainly) as first, trial.opened(precision, otherwise) as second:
        same = bool(np.array_equal(first.infer(frame).copy(), second.infer(frame)))
        before_ms, after_ms = medians_ms([first, second], frame)
    said = f"{precision}: {plain} {before_ms:.3g} ms, {other} {after_ms:.3g} ms: {after_ms / before_ms:.2f} of the time"
    return judge(
        same,
        said if same else f"{said}; but the masks differ",
        fix="do not use it, and report it with this page",
        p50_ms={plain: before_ms, other: after_ms},
    )


def give_memory_back(trial: Trial) -> Verdict:
    """Open and close engines, and see that the GPU's memory is free again."""
    gpu = trial.subject.gpu
    if gpu is None:
        return not_run(_NO_GPU)
    free = []
    for _ in range(4):
        with trial.opened(trial.precisions[0]) as engine:
            engine.infer(trial.a_frame())
        with gpu.current():
            free.append(gpu.free_memory()[0])
    lost = free[0] - free[-1]  # what the first one loaded for good is not counted
    said = f"{max(0, lost) >> 20} MiB are gone after three engines were opened and closed"
    fix = "end other programs that use the GPU and try again; if it stays, report it with this page"
    return judge(lost <= _LOST_BYTES, said, fix=fix, lost_mib=max(0, lost) >> 20)


@contextmanager
def _listening() -> Iterator[list[str]]:
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, logger = Handler(logging.WARNING), logging.getLogger(_LOGGER)
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
