"""The parent's side of `edgeseg.benchmarks.worker`, and of any other process that speaks its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
    threads: int | None
    """None where the engine has none to choose."""
    source: str


class Process:
    """A fresh process that holds what is measured. Every method raises `BenchmarkError` for what went wrong in it."""

    def __init__(self, name: str, child: subprocess.Popen[str]) -> None:
        self._name, self._child = name, child
        self.pid = child.pid
        self.first = self._answer()
        """What it says of itself once it is ready; a worker's `load_ms`, `first_inference_ms`, `first_mask_ms` and
        `source_size`."""

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
                f"the process that measures {self._name} ended with status {status}",
                fix="see its own message above; a status below zero is the signal that ended it",
            )
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            raise BenchmarkError(f"the process that measures {self._name} answers {line.strip()!r:.80}") from None
        if "missing" in found:
            raise ModuleNotFoundError(f"No module named {found['missing']!r}", name=found["missing"])
        if "error" in found:
            message, expected, fix = found["error"]
            raise BenchmarkError(message, expected=expected, fix=fix)
        return found


@contextmanager
def start_process(subject: Subject, *, environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Start a worker for the block; its first mask is ready when the block begins. `environment` adds to ours."""
    order = {**subject.__dict__, "started_ns": time.monotonic_ns()}
    command = [sys.executable, "-m", "edgeseg.benchmarks.worker", json.dumps(order)]
    with start_command(subject.bundle, command, environment={**os.environ, **(environment or {})}) as process:
        yield process


@contextmanager
def start_command(
    name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Start `command`, called `name` in errors, for the block; it has given its first answer when the block begins.

    Raises `BenchmarkError` if it cannot be started.
    """
    try:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    except OSError as error:
        raise BenchmarkError(
            f"cannot start {command[0]}: {error.strerror}", fix=f"set up what measures {name}"
        ) from error
    with child:
        try:
            yield Process(name, child)
        except BaseException:
            child.kill()
            raise
