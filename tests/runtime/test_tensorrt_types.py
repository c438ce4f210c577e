"""Names and signatures of TensorRT that the builder and the backend use, held by mypy against type stubs of 10.13.

The modules take TensorRT as a value, so that one code drives all its versions, and to mypy that value may be anything.
Here they are checked with the stubs' module in its place.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_stubs") is None,
    reason="no type stubs of TensorRT: pip install --no-deps tensorrt-stubs",
)

_RUNTIME = Path(__file__).parents[2] / "runtime"
_SOURCES = ("engine/api.py", "engine/builder.py", "backends/tensorrt.py")
_NOT_ASKED = ("ComputeCapability", "num_compute_capabilities", "set_compute_capability", "array_equal")
"""What TensorRT-RTX has and TensorRT lacks, reached with a target only; and numpy, whose types are not at issue."""


def name_the_stubs(source: str) -> str:
    """Let the module that is handed around be the stubs'."""
    source = re.sub(r"\b(?:self\._)?trt\.(?=[A-Za-z_])", "tensorrt.", source)
    source = source.replace("config: Any", "config: tensorrt.IBuilderConfig").replace("  # type: ignore[misc]", "")
    return source.replace(
        "from __future__ import annotations\n", "from __future__ import annotations\n\nimport tensorrt\n", 1
    )


def complaints(source: str, folder: Path) -> list[str]:
    """Return what mypy says of the use of TensorRT in `source`."""
    path = folder / "checked.py"
    path.write_text(name_the_stubs(source))
    codes = ("attr-defined", "arg-type", "call-arg", "call-overload", "override")
    command = [sys.executable, "-m", "mypy", "--config-file", os.devnull, "--namespace-packages"]
    command += ["--explicit-package-bases", "--ignore-missing-imports", "--follow-imports", "silent"]
    command += ["--cache-dir", str(folder / "cache"), str(path)]
    _write_stubs(folder / "stubs")
    environment = {**os.environ, "MYPYPATH": os.pathsep.join([str(_RUNTIME), str(folder / "stubs")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    own = [line for line in done.stdout.splitlines() if line.startswith(str(path))]
    lines = [line for line in own if any(f"[{code}]" in line for code in codes)]
    assert "prevented further checking" not in done.stdout and done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in lines if not any(name in line for name in _NOT_ASKED)]


def _write_stubs(folder: Path) -> None:
    """Copy the stubs with the five lines mended that are not Python: `in` for a name, a default before a bare one."""
    spec = importlib.util.find_spec("tensorrt_stubs")
    assert spec is not None and spec.origin is not None
    for name in ("tensorrt/__init__.pyi", "tensorrt_bindings/__init__.pyi", "tensorrt_bindings/tensorrt.pyi"):
        text = (Path(spec.origin).parents[1] / name).read_text(encoding="utf-8")
        text = text.replace(" in: list[", " inputs: list[").replace("channel_axis: int)", "channel_axis: int = 0)")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", _SOURCES)
def test_what_is_used_of_tensorrt_is_in_its_stubs(name: str, tmp_path: Path) -> None:
    assert complaints((_RUNTIME / "edgeseg" / "runtime" / name).read_text(), tmp_path) == []


def test_wrong_name_and_wrong_argument_are_seen(tmp_path: Path) -> None:
    source = (
        "from __future__ import annotations\nfrom typing import Any\n\n\n"
        "def build(trt: Any, logger: Any, config: Any) -> None:\n"
        "    builder = trt.Builder(logger)\n"
        "    builder.max_batch_size_of_old = 1\n"
        "    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 'much')\n"
    )
    found = "\n".join(complaints(source, tmp_path))
    assert "max_batch_size_of_old" in found and "set_memory_pool_limit" in found
