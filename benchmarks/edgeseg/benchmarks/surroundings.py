"""What the machine was like before and after a run, and who else used it meanwhile."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeseg.benchmarks.document import Moment, Surroundings
from edgeseg.benchmarks.gpu import read_gpu

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Watch:
    """Holds the surroundings of a run once it is over."""

    found: Surroundings
    seconds: float


@contextmanager
def watch_surroundings(root: Path = Path("/")) -> Iterator[Watch]:
    """Look at the machine before and after the block. `root` is where `proc` and `sys` lie."""
    watch = Watch()
    before, busy_s, own_s, began_s = read_moment(root), _busy_s(root), _own_s(), time.monotonic()
    yield watch
    watch.seconds = time.monotonic() - began_s
    own_s, busy_after_s = _own_s() - own_s, _busy_s(root)
    others_s = None if busy_s is None or busy_after_s is None else max(0.0, busy_after_s - busy_s - own_s)
    watch.found = Surroundings(
        before=before,
        after=read_moment(root),
        own_cores=round(own_s / watch.seconds, 3),
        other_cores=None if others_s is None else round(others_s / watch.seconds, 3),
    )


def read_moment(root: Path = Path("/")) -> Moment:
    """Read clocks (MHz, one a core), temperatures (degrees Celsius by sensor), the load of the minute and the GPU."""
    return Moment(
        clocks_mhz=_clocks_mhz(root) or None,
        temperatures_c=_temperatures_c(root) or None,
        load_1m=_load_1m(root),
        gpu=read_gpu(root),
    )


def _clocks_mhz(root: Path) -> tuple[float, ...]:
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    khz = [_read_number(path) for path in paths]
    if any(value is not None for value in khz):
        return tuple(value / 1000 for value in khz if value is not None)
    text = _read(root / "proc/cpuinfo") or ""
    return tuple(float(mhz) for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE))


def _temperatures_c(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        kind, level = _read(zone / "type"), _read_number(zone / "temp")
        if kind is not None and level is not None:
            found[f"{zone.name.removeprefix('thermal_zone')}:{kind}"] = level / 1000
    return found


def _load_1m(root: Path) -> float | None:
    text = _read(root / "proc/loadavg")
    return float(text.split()[0]) if text else None


def _busy_s(root: Path) -> float | None:
    """Return the seconds that all cores together were not idle: all of the first line but idle, iowait and guests."""
    match = re.match(r"cpu +(.*)", _read(root / "proc/stat") or "")
    if match is None:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, match.group(1).split()[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _own_s() -> float:
    # Children count once they have ended, which every benchmark waits for.
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _read(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return None


def _read_number(path: Path) -> float | None:
    with suppress(ValueError):
        return float(_read(path) or "")
    return None
