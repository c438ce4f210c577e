"""The parent's side of `edgeseg.benchmarks.worker`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edgeseg.benchmarks.errors import BenchmarkError


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured, with nothing left to choose."""

    bundle: str
    """A path, or a shipped model's name."""
    backend: str
    precision: str
    threads: int
    source: str


class Process:
    """A fresh process that holds a subject. Every method raises `BenchmarkError` for what went wrong in it."""

    def __init__(self, subject: Subject, child: subprocess.Popen[str]) -> None:
        self._subject, self._child = subject, child
        self.pid = child.pid
        self.first = self._answer()
        """`load_ms`, `first_inference_ms`, `first_mask_ms` and `source_size`."""

    def do(self, what: str, **order: Any) -> dict[str, Any]:
        """Have the worker's method `what` run, and return its answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": what, **order}) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            status = self._child.wait()
            raise BenchmarkError(
                f"the process that measures {self._subject.bundle} ended with status {status}",
                fix="see its own message above; a status below zero is the signal that ended it",
            )
        found: dict[str, Any] = json.loads(line)
        if "missing" in found:
            raise ModuleNotFoundError(f"No module named {found['missing']!r}", name=found["missing"])
        if "error" in found:
            message, expected, fix = found["error"]
            raise BenchmarkError(message, expected=expected, fix=fix)
        return found


@contextmanager
def start_process(subject: Subject) -> Iterator[Process]:
    """Start a process for the block; its first mask is ready when the block begins."""
    order = {**subject.__dict__, "started_ns": time.monotonic_ns()}
    command = [sys.executable, "-m", "edgeseg.benchmarks.worker", json.dumps(order)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield Process(subject, child)
        except BaseException:
            child.kill()
            raise
