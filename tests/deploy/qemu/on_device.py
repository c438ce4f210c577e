"""Run beside the agent, on an emulated device or on its disk: an update, and what is left of one after a power cut.

    python3 on_device.py AGENT-FOLDER SETTINGS NEW-RELEASE

Takes one word a line, and answers each with a line of JSON after `@said`. It is one process, started before the
device is saved: on an emulated processor a start of Python takes seconds, in which nothing is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

AGENT, SETTINGS, RELEASE = sys.argv[1:]
sys.path.insert(0, AGENT)

from edgeseg_agent.__main__ import main  # type: ignore[import-not-found]  # noqa: E402
from edgeseg_agent.config import load_config  # type: ignore[import-not-found]  # noqa: E402
from edgeseg_agent.device import Clock  # type: ignore[import-not-found]  # noqa: E402
from edgeseg_agent.health import Health, write_health  # type: ignore[import-not-found]  # noqa: E402
from edgeseg_agent.slots import Slots  # type: ignore[import-not-found]  # noqa: E402

CONFIG, CLOCK = load_config(Path(SETTINGS)), Clock()
SHA256 = hashlib.sha256(Path(RELEASE).read_bytes()).hexdigest()


def agent(*words: str) -> str:
    """Run one command of the agent and return what it prints; a refusal is an answer too."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        main(["--config", SETTINGS, *words])
    return said.getvalue().strip()


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(agent("status"))
    return found


def upload() -> str:
    """Bring the new release to the device, as a push does."""
    with Path(RELEASE).open("rb") as stream:
        sys.stdin, before = io.TextIOWrapper(stream), sys.stdin
        said = agent("receive", SHA256, "--size", str(Path(RELEASE).stat().st_size))
        sys.stdin = before
    return said


def activate() -> str:
    """What the build unit, the service's start and the probation timer do, one after the other, in good health."""
    words = [agent("fulfil"), agent("guard")]
    while "on trial" in words[-1] or "is whole" in words[-1]:
        slots = Slots(CONFIG.root)
        digest = slots.descriptor(slots.current).digest
        told = {"release": digest, "boot_id": CLOCK.boot_id(), "told_s": CLOCK.monotonic()}
        write_health(CONFIG.health, Health(**told, alive=True, flowing=True))
        words.append(agent("look"))
        time.sleep(0.3)
    return " | ".join(words)


def update() -> str:
    """Ask for the uploaded release, and see it to its end."""
    agent("request", SHA256)
    return activate()


def after_cut() -> dict[str, Any]:
    """What the agent does at a start, what it says then, and what becomes of the update."""
    answer: dict[str, Any] = {"files": files(), "said": agent("guard"), "found": status()}
    if answer["found"]["current"]["version"] == 1:
        if not (CONFIG.root / "request").exists():
            upload()
            agent("request", SHA256)
        answer["finished"] = agent("fulfil")
    return answer | {"end": status()}


def files() -> list[str]:
    """The names below the agent's root, and where its links lead, before anything repairs them."""
    found = [path for depth in ("*", "slots/*", "slots/b/*") for path in CONFIG.root.glob(depth)]
    return sorted(
        path.relative_to(CONFIG.root).as_posix() + (f" -> {path.readlink()}" if path.is_symlink() else "")
        for path in found
    )


for line in sys.stdin:
    does = {"install": activate, "upload": upload, "update": update, "after-cut": after_cut, "hello": str}
    print("@said", json.dumps(does[line.strip()]()), flush=True)  # type: ignore[operator]  # noqa: T201
