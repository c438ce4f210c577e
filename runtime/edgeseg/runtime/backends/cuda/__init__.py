"""One small interface to CUDA, over pycuda, or over cuda-python's bindings where pycuda has no wheel."""

from __future__ import annotations

import threading
from importlib import import_module

from edgeseg.runtime.backends.cuda.gpu import Gpu, Held, HostArray, OutOfMemoryError, abandon
from edgeseg.runtime.errors import BackendError

__all__ = ["LIBRARIES", "Gpu", "Held", "HostArray", "OutOfMemoryError", "abandon", "open_gpu"]

LIBRARIES = {
    "pycuda": "edgeseg.runtime.backends.cuda.pycuda:PyCudaGpu",
    "cuda-python": "edgeseg.runtime.backends.cuda.bindings:CudaPythonGpu",
}
"""Name -> `module:class`, in the order in which they are tried."""

_opened: dict[int, Gpu] = {}
_opening = threading.Lock()


def open_gpu(ordinal: int = 0) -> Gpu:
    """Return GPU `ordinal`, the same object each time. Raises `BackendError` if there is none, or no CUDA library."""
    with _opening:
        if ordinal not in _opened:
            _opened[ordinal] = _open(ordinal)
        return _opened[ordinal]


def _open(ordinal: int) -> Gpu:
    missing = []
    for name, place in LIBRARIES.items():
        module, _, attribute = place.partition(":")
        try:
            opened: Gpu = getattr(import_module(module), attribute)(ordinal)
            return opened
        except ImportError as error:
            missing.append(f"{name}: {error}")
        except Exception as error:  # each library has classes of its own
            raise BackendError(
                f"GPU {ordinal} cannot be used ({error})",
                fix="see that nvidia-smi (on a Jetson: tegrastats) shows a GPU and that this user may use it",
            ) from error
    raise BackendError(
        f"no CUDA library can be loaded ({'; '.join(missing)})",
        fix="pip install pycuda, or cuda-python, for this machine's CUDA",
    )
