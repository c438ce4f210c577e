"""TensorRT's Python API as far as 10.3, 10.13, 10.16, 11 and TensorRT-RTX share it, by name.

Never by number: STRONGLY_TYPED is 1 in 10 and 0 in 11.
"""

from __future__ import annotations

import functools
import logging
import threading
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from edgeseg.runtime.errors import BackendError

_log = logging.getLogger(__name__)

OLDEST = (10, 3)
_FIXES = {
    "tensorrt": "on a Jetson: apt-get install python3-libnvinfer and a virtual environment with "
    "--system-site-packages; on a PC: pip install 'edgeseg[tensorrt]'",
    "tensorrt_rtx": "pip install 'edgeseg[aot]'",
}


def is_installed(module: str = "tensorrt") -> bool:
    """Whether there is such a module: of type stubs alone there is only a folder without code."""
    spec = find_spec(module)
    return spec is not None and (spec.origin is not None or spec.submodule_search_locations is None)


def load_tensorrt(module: str = "tensorrt") -> Any:
    """Import TensorRT, or `tensorrt_rtx`. Raises `BackendError` if it is missing, broken or older than 10.3."""
    try:
        trt = import_module(module)
    except (ImportError, OSError) as error:  # OSError: a library beside the bindings cannot be loaded
        raise BackendError(f"{module} cannot be loaded ({error})", fix=_FIXES[module]) from error
    if not hasattr(trt, "__version__"):
        raise BackendError(f"{module} cannot be loaded (there are type stubs only)", fix=_FIXES[module])
    if module == "tensorrt" and _numbers(trt.__version__) < OLDEST:
        raise BackendError(
            f"TensorRT {trt.__version__}",
            expected=f"{'.'.join(map(str, OLDEST))} or newer",
            fix="update JetPack to 6.1 or newer, or use --backend ort",
        )
    return trt


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def creation_flags(trt: Any, *, strongly_typed: bool) -> int:
    """Return the bits for `create_network`, of those names that this version has."""
    wanted = ("EXPLICIT_BATCH", "STRONGLY_TYPED") if strongly_typed else ("EXPLICIT_BATCH",)
    members = (getattr(trt.NetworkDefinitionCreationFlag, name, None) for name in wanted)
    return sum(1 << int(member) for member in members if member is not None)


class Errors:
    """What TensorRT's log calls errors, kept for the one line that a user gets."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Keep a line."""
        with self._lock:
            self._lines.append(line)

    def take(self) -> str:
        """Return the first that was kept, in one line, and forget all; empty if there was none."""
        with self._lock:
            lines, self._lines = self._lines, []
        return " ".join(lines[0].split()) if lines else ""


@functools.cache
def shared_logger(trt: Any) -> tuple[Any, Errors]:
    """Return the one logger of module `trt` (TensorRT keeps the first that it is given) and what it collects."""
    errors = Errors()
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,
        trt.ILogger.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if levels[severity] == logging.ERROR:
                errors.add(message)
            _log.log(logging.DEBUG if levels[severity] == logging.ERROR else levels[severity], "%s", message)

    return Logger(), errors
