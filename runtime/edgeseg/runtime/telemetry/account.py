"""What many readings amount to, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeseg.runtime.telemetry.reading import Reading

_GAP_S = 5.0


class Account:
    """Adds readings up. `add` is for one thread; `document` for any, once no more are added."""

    def __init__(self) -> None:
        self.readings = 0
        self._first_s = 0.0
        self._last: tuple[float, Reading] | None = None
        self._energy_j = self._covered_s = 0.0
        self._most: dict[str, float] = {}
        self._least: dict[str, float] = {}
        self._hottest_c: dict[str, float] = {}
        self._rail: str | None = None
        self._throttle_known = False
        self._reasons: set[str] = set()
        self.time_to_throttle_s: float | None = None
        """From the first reading to the first that was throttled; None if none was, or if the device does not tell."""

    def add(self, reading: Reading, at_s: float) -> None:
        """Count a reading that was taken at `at_s`, seconds on a clock that only goes forward."""
        if not self.readings:
            self._first_s = at_s
        self.readings += 1
        self._add_power(reading, at_s)
        for name in ("power_w", "gpu_mhz", "gpu_percent", "memory_used_mib", "swap_used_mib"):
            value = getattr(reading, name)
            if value is not None:
                self._most[name] = max(value, self._most.get(name, value))
                self._least[name] = min(value, self._least.get(name, value))
        for sensor, celsius in reading.temperatures_c.items():
            self._hottest_c[sensor] = max(celsius, self._hottest_c.get(sensor, celsius))
        if reading.throttle is not None:
            self._throttle_known = True
            self._reasons.update(reading.throttle)
            if reading.throttle and self.time_to_throttle_s is None:
                self.time_to_throttle_s = at_s - self._first_s
        self._last = (at_s, reading)

    def _add_power(self, reading: Reading, at_s: float) -> None:
        """Integrate by trapezoids; what lies between two readings of different rails or in a gap is not guessed."""
        self._rail = self._rail or reading.power_rail
        if self._last is None:
            return
        before_s, before = self._last
        span_s = at_s - before_s
        if before.power_w is None or reading.power_w is None or not 0 < span_s <= _GAP_S:
            return
        if before.power_rail == reading.power_rail == self._rail:
            self._energy_j += (before.power_w + reading.power_w) / 2 * span_s
            self._covered_s += span_s

    @property
    def mean_power_w(self) -> float | None:
        """Mean over the time that readings cover; None without two readings of power."""
        return self._energy_j / self._covered_s if self._covered_s else None

    def document(self, *, frames: int | None = None, seconds: float | None = None) -> dict[str, Any]:
        """Return the figures as JSON's types, those that are not there left out.

        With the number of `frames` that the device did in `seconds`, `joules_per_frame` is among them.
        """
        power = {
            "mean": _round(self.mean_power_w),
            "max": _round(self._most.get("power_w")),
            "rail": self._rail if "power_w" in self._most else None,
        }
        figures: dict[str, Any] = {
            "readings": self.readings,
            "power_w": {name: value for name, value in power.items() if value is not None},
            "temperature_c": {sensor: round(celsius, 1) for sensor, celsius in sorted(self._hottest_c.items())},
            "gpu_mhz": self._range("gpu_mhz"),
            "gpu_percent": self._range("gpu_percent"),
            "memory_used_mib": self._range("memory_used_mib"),
            "swap_used_mib": self._range("swap_used_mib"),
            "throttled": sorted(self._reasons) if self._throttle_known else None,
            "time_to_throttle_s": _round(self.time_to_throttle_s),
            "joules_per_frame": _round(joules_per_frame(self.mean_power_w, frames=frames, seconds=seconds), 4),
        }
        return {name: value for name, value in figures.items() if value not in (None, {})}

    def _range(self, name: str) -> dict[str, float] | None:
        if name not in self._most:
            return None
        return {"min": round(self._least[name], 1), "max": round(self._most[name], 1)}


def joules_per_frame(mean_power_w: float | None, *, frames: int | None, seconds: float | None) -> float | None:
    """Return what one frame costs, everything that the rail feeds included; None where something is not known."""
    if mean_power_w is None or not frames or not seconds:
        return None
    return mean_power_w * seconds / frames


def describe_figures(figures: Mapping[str, Any]) -> str:
    """Return `Account.document`'s figures in one line for a person, as far as they are known."""
    parts = []
    power = figures.get("power_w", {})
    if "max" in power:
        mean = f"{power['mean']:.1f} W mean, " if "mean" in power else ""
        parts.append(f"power {mean}{power['max']:.1f} W at most ({power['rail']})")
    if "joules_per_frame" in figures:
        parts.append(f"{figures['joules_per_frame']:.3g} J a frame")
    heat = figures.get("temperature_c", {})
    if heat:
        hottest = max(heat, key=heat.__getitem__)
        parts.append(f"{hottest} up to {heat[hottest]:.0f} °C")
    if figures.get("throttled"):
        parts.append(
            f"clocks held down after {figures['time_to_throttle_s']:.0f} s ({', '.join(figures['throttled'])})"
        )
    elif "throttled" in figures:
        parts.append("clocks were not held down")
    return ", ".join(parts)


def _round(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
