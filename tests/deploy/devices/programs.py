"""Programs that take a release's place: they speak as `edgeseg run` does, and misbehave as they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEHAVIOURS = {
    "good": "flows for ever",
    "crash": "ends with status 3 after two seconds",
    "hang": "falls silent after two seconds",
    "mute": "never says a word",
    "wrong": "half of the golden pixels differ",
    "slow": "frames are ten times as old",
    "fill": "fills the disk as far as it may write",
    "flood": "logs as fast as it can",
}

SETTINGS: dict[str, Any] = {
    "serve": ["python3", "{slot}/wheelhouse/program.py"],
    "prepare": [],
    "build": [],
    "probation_s": 20,
    "start_s": 30,
    "stage_limit_s": 5,
    "retry_s": 5,
    "reserve_mb": 8,
    "least_free_mb": 8,
    "device": {"jetpack": "6.2"},
}
"""The agent's settings for these programs. Times are shorter than the defaults; the units' own stay as they are."""

_PROGRAM = """
import json, os, sys, time
from pathlib import Path

home = Path(os.environ["HOME"])
told = home / "behaviour"  # a permanent version can be told to misbehave
behaviour = (told if told.exists() else Path(__file__).with_name("behaviour")).read_text()
started_s, frames = time.monotonic(), 0


def fill():
    with (home / "filler").open("ab", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(1 << 16))
        except OSError as error:
            print(f"the disk is full: {error.strerror}", file=sys.stderr)


def flood():
    for number in range(400):
        print(number, os.urandom(8192).hex(), file=sys.stderr)


with os.fdopen(int(os.environ["EDGESEG_LIVENESS"]), "w", buffering=1) as ears:
    while True:
        late = time.monotonic() - started_s > 2
        if behaviour == "crash" and late:
            sys.exit(3)
        frames += 25
        words = [
            {"stage": "capture", "state": "flowing", "present": True, "frames": frames},
            {"stage": "inference", "golden": 0.5 if behaviour == "wrong" else 1.0},
            {"stage": "sinks", "frame_age_ms": 400.0 if behaviour == "slow" else 40.0},
        ]
        if not (behaviour == "mute" or (behaviour == "hang" and late)):
            ears.write("".join(json.dumps(word) + "\\n" for word in words))
        {"fill": fill, "flood": flood}.get(behaviour, int)()
        time.sleep(1)
"""


def write_program(folder: Path, behaviour: str) -> Path:
    """Write a program with one of `BEHAVIOURS` to a folder below `folder`, and return that as a wheelhouse."""
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"{behaviour!r} is none of {', '.join(BEHAVIOURS)}")
    wheelhouse = folder / behaviour
    wheelhouse.mkdir(exist_ok=True)
    (wheelhouse / "program.py").write_text(_PROGRAM, encoding="utf-8")
    (wheelhouse / "behaviour").write_text(behaviour, encoding="utf-8")
    return wheelhouse


_NVPMODEL = """#!/bin/sh
case $1 in
-q) printf 'NV Power Mode: MODE\\n%s\\n' "$(cat STATE/mode || echo 0)" ;;
-m) echo "nvpmodel -m $2" >> STATE/calls
    [ "$2" != 9 ] || { echo "no such mode" >&2; exit 1; }
    [ "$2" = 7 ] || printf %s "$2" > STATE/mode ;;  # 7 needs a reboot, and nobody agreed to one
esac
"""


def write_power_tools(folder: Path, *, state: Path) -> None:
    """Write stand-ins for nvpmodel and jetson_clocks, which keep the mode and note calls in the folder `state`."""
    for name, text in (("nvpmodel", _NVPMODEL), ("jetson_clocks", "#!/bin/sh\necho jetson_clocks >> STATE/calls\n")):
        (folder / name).write_text(text.replace("STATE", str(state)), encoding="utf-8")
        (folder / name).chmod(0o755)
