"""One side of `edgeseg.benchmarks.guard`: `python guard_worker.py HOT_PATHS.py ROOT`, with ROOT's code on the path.

A file by itself that imports nothing of edgeseg: what it would import is what is compared. So the few lines by which
it answers are its own too.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SLICE_S = 0.03
"""A slice takes about this, so that neither the clock nor a turn's beginning matters."""
_MOST = 1 << 20


class _Side:
    def __init__(self, paths: dict[str, Callable[[], Callable[[], object]]], root: Path) -> None:
        self._run: dict[str, Callable[[], object]] = {}
        self._absent: list[str] = []
        for name, prepare in paths.items():
            try:
                self._run[name] = prepare()
            except (ImportError, AttributeError, TypeError) as error:  # this state of the code has no such thing
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
                self._absent.append(name)
        self._names = list(paths)
        _check_origin(root)

    def first(self) -> dict[str, Any]:
        return {"names": self._names, "absent": self._absent}

    def calibrate(self, name: str) -> dict[str, Any]:
        """Return how many calls take a slice."""
        count, took_s = 1, self._time(name, 1)
        while took_s < _SLICE_S and count < _MOST:
            count *= 2
            took_s = self._time(name, count)
        return {"count": count}

    def time(self, name: str, count: int, slices: int) -> dict[str, Any]:
        return {"ms": [1e3 * self._time(name, count) for _ in range(slices)]}

    def _time(self, name: str, count: int) -> float:
        run = self._run[name]
        began_s = time.perf_counter()
        for _ in range(count):
            run()
        return time.perf_counter() - began_s


def _check_origin(root: Path) -> None:
    """Exit unless everything of edgeseg that was imported came from below `root`."""
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] == "edgeseg" and file and root.resolve() not in Path(file).resolve().parents:
            sys.exit(f"{name} comes from {file}, not from {root}")


def main() -> None:
    """Answer each line of JSON on standard input with one on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = _Side(runpy.run_path(sys.argv[1])["PATHS"], Path(sys.argv[2]))
    answer = side.first()
    while True:
        out.write(json.dumps(answer) + "\n")
        out.flush()
        line = sys.stdin.readline()
        if not line:
            return
        order = json.loads(line)
        answer = getattr(side, order.pop("do"))(**order)


if __name__ == "__main__":
    main()
