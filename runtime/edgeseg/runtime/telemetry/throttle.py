"""Whether a Jetson holds its clocks down. tegrastats does not tell; the kernel does, in two places.

Cooling devices named `*-throttle-alert` and `hot-surface-alert` are in a state other than 0 while a temperature limit
holds, and the over-current monitors of hwmon device `soctherm_oc` count their events (NVIDIA, Jetson Linux Developer
Guide, "Thermal Management" and "Over-Current Event Count").
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


class ThrottleProbe:
    """Tells why clocks are held down. `root` is where `sys` lies."""

    def __init__(self, root: Path = Path("/")) -> None:
        thermal = sorted((root / "sys/class/thermal").glob("cooling_device*"))
        self._alerts = {device: kind for device in thermal if (kind := _read(device / "type")).endswith("-alert")}
        monitors = [path.parent for path in sorted((root / "sys/class/hwmon").glob("hwmon*/name"))]
        named = [monitor for monitor in monitors if _read(monitor / "name") == "soctherm_oc"]
        self._counters = [path for monitor in named for path in sorted(monitor.glob("oc*_event_cnt"))]
        self._counts = {path: _number(path) for path in self._counters}

    def reasons(self) -> tuple[str, ...] | None:
        """Return the alerts that are raised now, and "over-current" if there was one since the last call.

        None where the device has neither place, or lets neither be read.
        """
        states = {
            kind: state for device, kind in self._alerts.items() if (state := _number(device / "cur_state")) is not None
        }
        counts = {path: count for path in self._counters if (count := _number(path)) is not None}
        if not states and not counts:
            return None
        over_current = any(count > (self._counts.get(path) or 0) for path, count in counts.items())
        self._counts = {**self._counts, **counts}
        raised = sorted(kind.removesuffix("-alert") for kind, state in states.items() if state > 0)
        return (*raised, *(["over-current"] if over_current else []))


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip("\0 \n")
    return ""


def _number(path: Path) -> int | None:
    with suppress(ValueError):
        return int(_read(path))
    return None
