"""The child's side of `edgeseg.benchmarks.process`: each line of JSON on standard input is answered with one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from edgeseg.runtime.errors import EdgesegError


class Worker(Protocol):
    """Answers an order `{"do": name, **arguments}` with its method of that name, which returns JSON's types."""

    def first(self) -> dict[str, Any]:
        """Return the first answer, which comes by itself."""


def serve(start: Callable[[], Worker]) -> NoReturn:
    """Start a worker and answer for it until the parent closes standard input; then end the process.

    It ends without Python's own clearing up: see `loadgen.run_loadgen`.
    """
    # Ctrl-C reaches the parent too, which says so.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What a library prints must not come between the answers.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def answer(found: dict[str, Any]) -> None:
            out.write(json.dumps(found) + "\n")
            out.flush()

        status = 0
        try:
            worker = start()
            answer(worker.first())
            for line in sys.stdin:
                order = json.loads(line)
                answer(getattr(worker, order.pop("do"))(**order))
        except EdgesegError as error:
            answer({"error": [error.found, error.expected, error.fix]})
            status = 1
        except ModuleNotFoundError as error:
            answer({"missing": error.name})
            status = 1
    os._exit(status)
