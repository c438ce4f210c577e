"""The wheels that a release brings along, made as docs/deploy.md says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = "{slot}/prepared/venv/bin/python"
EDGESEG = "{slot}/prepared/venv/bin/edgeseg"
INSTALL = [
    ["python3", "-m", "venv", "{slot}/prepared/venv"],
    [
        PYTHON,
        *("-m", "pip", "install", "--quiet", "--no-index", "--find-links", "{slot}/wheelhouse"),
        "edgeseg[desktop]",
    ],
]
"""The setting `prepare` of a device that has neither OpenCV nor TensorRT of its own."""


def make_wheelhouse(folder: Path, machine: str) -> Path:
    """Fill `folder` with edgeseg's wheel and all that it needs on Debian 12 and a `machine` such as aarch64."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    target = ["--only-binary=:all:", "--python-version", "3.11"]
    for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28"):
        target += ["--platform", f"{tag}_{machine}"]
    for words in (
        ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT],
        ["download", *target, "-c", ROOT / "constraints.txt", "--find-links", folder, "-d", folder, "edgeseg[desktop]"],
    ):
        command = [*pip, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder
