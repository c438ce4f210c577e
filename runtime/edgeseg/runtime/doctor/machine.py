"""What the doctor's checks look at, and what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "error"]
"""`note`: optional and not there. `warning`: something that users want will not work. `error`: `run` cannot work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found of one thing; `fix` is empty where there is nothing to mend."""

    check: str
    level: Level
    found: str
    fix: str = ""

    def document(self) -> dict[str, str]:
        """Return JSON's types; an empty fix is left out."""
        fields = {"check": self.check, "level": self.level, "found": self.found, "fix": self.fix}
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a process ended: its exit status (negative: the signal that ended it) and what it wrote."""

    status: int
    out: str = ""
    err: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """A Python module: imported (`facts`), failed (`problem`, one line), or not there (neither)."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    errors: str = ""
    """All that the failed import wrote."""


class Machine:
    """The machine that this runs on. `root` is where `dev`, `etc`, `proc`, `run`, `sys` and `usr` lie."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.environ: Mapping[str, str] = os.environ
        self.python: tuple[int, int, int] = sys.version_info[:3]
        self.venv = Path(sys.prefix) if sys.prefix != sys.base_prefix else None
        self.time_s = time.time()

    def run_python(self, code: str) -> Outcome:
        """Run `code` in a fresh interpreter, so that a crash is an outcome."""
        try:
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=120
            )
        except subprocess.TimeoutExpired:
            return Outcome(status=1, err="no end within 120 s")
        return Outcome(status=done.returncode, out=done.stdout, err=done.stderr)

    def which(self, command: str) -> str | None:
        return shutil.which(command)

    def may_use(self, device: Path) -> bool:
        return os.access(device, os.R_OK | os.W_OK)

    def free_disk_mib(self, folder: Path) -> int:
        return shutil.disk_usage(folder).free >> 20

    def read(self, path: str) -> str:
        """Return the text of a file under `root`; empty where it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0 \n")
        except OSError:
            return ""

    @cached_property
    def is_jetson(self) -> bool:
        return "Jetson" in self.read("proc/device-tree/model") or bool(self.read("etc/nv_tegra_release"))

    @cached_property
    def has_gpu(self) -> bool:
        """Whether there is an NVIDIA GPU with its driver."""
        return self.is_jetson or bool(self.read("proc/driver/nvidia/version"))

    def module(self, names: str, **facts: str) -> Module:
        """Import the modules `names` in a process of its own; each of `facts` is an expression over them."""
        wanted = ", ".join(f"{name!r}: {expression}" for name, expression in facts.items())
        done = self.run_python(f"import json, {names}\nprint('\\n' + json.dumps({{{wanted}}}))")
        lines = done.err.strip().splitlines() or ["it failed without a word"]
        if done.status < 0:
            return Module(problem=f"importing it crashed (signal {-done.status})", errors=done.err)
        if done.status > 0:
            missing = re.search(r"No module named '([\w.]+)'", lines[-1])
            absent = missing is not None and missing[1] in names
            return Module(problem="" if absent else lines[-1], errors=done.err)
        found = json.loads(done.out.strip().splitlines()[-1])
        return Module(facts=found, errors=done.err)

    @cached_property
    def numpy(self) -> Module:
        return self.module("numpy", version="numpy.__version__", file="numpy.__file__")

    @cached_property
    def opencv(self) -> Module:
        return self.module("cv2", version="cv2.__version__", file="cv2.__file__", build="cv2.getBuildInformation()")
