"""The first use of a bundle on a machine: do its golden frames come out here as they did where it was made?

INT8 kernels differ between processors. On x86 without VNNI they may saturate, and lose points that nothing else shows.
The answer is remembered for each processor and GPU, package versions, bundle and precision.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import click
import numpy as np

from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.environment import environment
from edgeseg.runtime.files import write_json
from edgeseg.runtime.frame import Image, Mask

_MAX_REMEMBERED = 256
_DRIVER = Path("/proc/driver/nvidia/gpus")
_PACKAGES = ("edgeseg", "numpy", "opencv", "onnxruntime", "tensorrt")
_said: set[str] = set()


class _Engine(Protocol):
    name: str
    precision: str

    def infer(self, frame: Image) -> Mask: ...


def find_failure(bundle: Bundle, engine: _Engine) -> str | None:
    """Return one line if `engine` gives fewer pixels of a golden frame than the manifest requires, else None.

    None too where the manifest requires nothing of this precision. What is remembered is not run again.
    """
    required = bundle.manifest.golden.agreement.get(engine.precision)  # type: ignore[call-overload]
    if required is None:
        return None
    key = _key(bundle, engine)
    agreement = _recall().get(key)
    if agreement is None:
        agreement = least_agreement(bundle, engine)
        _remember(key, agreement)
    if agreement >= required:
        return None
    found = math.floor(agreement * 1e4) / 1e2  # never rounded up to what is required
    return (
        f"{bundle.name}: {engine.precision} gives {found:.2f} % of a golden frame's pixels on this machine, "
        f"{required:.2%} are required"
    )


def least_agreement(bundle: Bundle, engine: _Engine) -> float:
    """Return the smallest share (0 to 1) of a golden frame's pixels that come out as they must; 1 without frames."""
    shares = [
        float(np.mean(engine.infer(np.ascontiguousarray(frame[None]))[0] == mask))
        for _, frame, mask in bundle.golden_frames()
    ]
    return min(shares, default=1.0)


def say_once(line: str) -> None:
    """Write a warning to standard error unless this process has already."""
    if line not in _said:
        _said.add(line)
        click.echo(f"warning: {line}", err=True)


def _key(bundle: Bundle, engine: _Engine) -> str:
    machine = environment()
    packages = {name: version for name, version in machine["packages"].items() if name in _PACKAGES}
    where = [machine.get("device"), machine.get("machine"), machine.get("instruction_set"), packages]
    where += [getattr(engine, "device", None), _gpu_models()]
    what = [bundle.manifest_sha256, engine.name, engine.precision]
    return hashlib.sha256(json.dumps([where, what], sort_keys=True).encode()).hexdigest()


def _gpu_models() -> list[str]:
    """Return what NVIDIA's driver calls its GPUs; a Jetson's is told by the board, `device` of the environment."""
    lines = [path.read_text(errors="replace") for path in sorted(_DRIVER.glob("*/information")) if path.is_file()]
    return re.findall(r"^Model:\s*(.+?)\s*$", "\n".join(lines), re.MULTILINE)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeseg" / "first-use.json"


def _recall() -> dict[str, float]:
    """Return what is remembered; nothing where the file is absent or is not what `_remember` wrote."""
    try:
        found = json.loads(_cache().read_bytes())
    except (OSError, ValueError, RuntimeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: share for key, share in found.items() if isinstance(share, float) and 0 <= share <= 1}


def _remember(key: str, agreement: float) -> None:
    # A service may have no home or may not write there: then its next start looks again.
    with suppress(OSError, RuntimeError):
        _cache().parent.mkdir(parents=True, exist_ok=True)
        kept = list(_recall().items())[1 - _MAX_REMEMBERED :]
        write_json(_cache(), {**dict(kept), key: agreement})
