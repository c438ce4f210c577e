"""The way in which a peer's process answers `edgeseg.benchmarks`; copied beside each peer, where edgeseg is not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(start: Callable[[], tuple[dict[str, Any], Callable[[int], list[float]]]]) -> None:
    """Answer with what `start` tells of itself, then each `{"do": "run", "count": N}` with N frames' milliseconds."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what a library prints must not come between the answers
        facts, run = start()
        print(json.dumps(facts), file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps({"ms": run(json.loads(line)["count"])}), file=out, flush=True)
