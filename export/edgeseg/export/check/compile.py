"""NVIDIA's own compiler over an ONNX file, with no GPU in the room.

TensorRT-RTX builds engines for a named compute capability without a device. It is TensorRT's parser and compiler, so
it proves that a graph is accepted and shows which convolutions became INT8. It knows no Jetson (SM87, SM110), and it is
a poor proxy for speed.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeseg.export.check.plan import Engine, read_engine
from edgeseg.runtime.errors import ExportError

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
DEFAULT_TARGETS = ("sm80", "sm86", "sm89", "sm120")
TIME_LIMIT_S = 900.0
_REFUSED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """The compiler rejected the graph, or did not survive it; `reason` is one line."""

    reason: str


def have_compiler() -> bool:
    """Whether tensorrt-rtx is installed."""
    return importlib.util.find_spec("tensorrt_rtx") is not None


def require_compiler() -> None:
    """Raise `ExportError` unless tensorrt-rtx is installed."""
    if not have_compiler():
        raise ExportError(
            "NVIDIA's compiler (tensorrt-rtx) is not installed",
            expected="edgeseg[aot], which there is for x86-64 only",
            fix="pip install 'edgeseg[aot]', or leave --target out to check the rules alone",
        )


def compile_graph(
    model: Path, target: str, convolutions: tuple[str, ...], *, time_limit_s: float = TIME_LIMIT_S
) -> Engine | Refusal:
    """Compile the ONNX file `model` for `target` in a process of its own.

    `convolutions` names the file's convolutions. A crash of the library and a time-out are refusals too. Raises
    `ExportError` if the compiler is not installed, or writes a log of another form.
    """
    require_compiler()
    with tempfile.TemporaryDirectory(prefix="edgeseg-check-") as folder:
        log_path = Path(folder) / "log.txt"
        command = [sys.executable, "-m", "edgeseg.export.check.worker", str(model.resolve()), target, str(log_path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=time_limit_s)
        except subprocess.TimeoutExpired:
            return Refusal(reason=f"not compiled within {time_limit_s:.0f} s")
        if done.returncode == 0:
            return read_engine(log_path.read_text(encoding="utf-8", errors="replace"), convolutions)
        return Refusal(reason=_reason(done.returncode, done.stdout, done.stderr))


def _reason(status: int, out: str, err: str) -> str:
    if status == _REFUSED:
        lines = out.strip().splitlines()
        return _shorten(lines[0] if lines else "refused without a reason")
    if status < 0:
        return f"the compiler crashed ({signal.Signals(-status).name})"
    lines = err.strip().splitlines()
    return _shorten(f"the compiler failed: {lines[-1] if lines else f'exit status {status}'}")


def _shorten(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
