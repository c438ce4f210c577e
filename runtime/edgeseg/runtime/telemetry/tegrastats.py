"""Jetson's `tegrastats`: its lines read into figures, and the process that prints them.

The format differs between releases, and each token stands for itself, so tokens are read one by one wherever they
stand and unknown ones are passed over: JetPack 6 prints `GR3D_FREQ 10%@1300` or `GR3D_FREQ 10%` (without root),
7.2 `12%@[1300,1300]`, Thor `@[1000,1000,1000]` or `87%@[...]`; rails carry two figures (now, mean) or three (and
peak); temperatures may carry their peak. Reference: NVIDIA, "tegrastats utility", Jetson Linux Developer Guide.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from edgeseg.runtime.telemetry.reading import Reading
from edgeseg.runtime.telemetry.throttle import ThrottleProbe

_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_START, _END = r"(?:(?<=\s)|^)", r"(?=\s|$)"
_MEMORY = re.compile(rf"{_START}(RAM|SWAP) (\d{{1,9}})/(\d{{1,9}})MB{_END}")
_ENGINE = re.compile(
    rf"{_START}(GR3D_FREQ|EMC_FREQ) (?:({_NUMBER})%)?(?:@({_NUMBER}|\[[^\[\]\s]*(?:, *[^\[\]\s]*)*\]))?{_END}"
)
_CPU = re.compile(rf"{_START}CPU \[([^\[\]]*)\](?:@({_NUMBER}))?{_END}")
_CORE = re.compile(rf"({_NUMBER})%(?:@({_NUMBER}))?")
_TEMPERATURE = re.compile(rf"{_START}([A-Za-z]\w*)@(-?{_NUMBER})C(?:/-?{_NUMBER}C)?{_END}")
# Older releases leave the unit out. NC is an input that nothing is connected to.
_RAIL = re.compile(rf"{_START}((?:VDD|VIN|POM)\w*) (\d{{1,9}})(?:mW(?:/-?\d{{1,9}}mW){{0,2}}|/\d{{1,9}}){_END}")

# A rail that measures the whole, else rails that together do. AGX's and Thor's 5 V rail feeds what the others do not.
_WHOLE = ("VDD_IN", "VIN", "POM_5V_IN")
_SUMS = (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"))


def parse_line(line: str) -> Reading:
    """Read what a whole line of tegrastats tells. Never raises: what is mangled or impossible is absent.

    A sensor that is powered down reads -256 °C, and a core that is off has no figures: both are absent.
    """
    rails = {match[1]: int(match[2]) / 1000 for match in _RAIL.finditer(line)}
    power_w, power_rail = _whole(rails)
    memory = {match[1]: (float(match[2]), float(match[3])) for match in _MEMORY.finditer(line)}
    memory = {name: (used, total) for name, (used, total) in memory.items() if used <= total}
    engines = {match[1]: (_percent(match[2]), _clock(match[3])) for match in _ENGINE.finditer(line)}
    gpu_percent, gpu_mhz = engines.get("GR3D_FREQ", (None, None))
    cpu_percent, cpu_mhz = _cores(line)
    used, total = memory.get("RAM", (None, None))
    return Reading(
        power_w=power_w,
        power_rail=power_rail,
        rails_w=rails,
        temperatures_c=_temperatures(line),
        gpu_percent=gpu_percent,
        gpu_mhz=gpu_mhz,
        cpu_percent=cpu_percent,
        cpu_mhz=cpu_mhz,
        emc_percent=engines.get("EMC_FREQ", (None, None))[0],
        memory_used_mib=used,
        memory_total_mib=total if total else None,
        swap_used_mib=memory.get("SWAP", (None, None))[0],
    )


def _whole(rails: Mapping[str, float]) -> tuple[float | None, str | None]:
    for name in _WHOLE:
        if name in rails:
            return rails[name], name
    for names in _SUMS:
        if all(name in rails for name in names):
            return math.fsum(rails[name] for name in names), "+".join(names)
    return None, None


def _percent(text: str | None) -> float | None:
    return float(text) if text is not None and float(text) <= 100 else None


def _clock(text: str | None) -> float | None:
    """Return the fastest of one clock or a list of them; "off" and the like are passed over."""
    if text is None:
        return None
    clocks = [float(part) for part in text.strip("[]").split(",") if re.fullmatch(rf"\s*{_NUMBER}\s*", part)]
    return max(clocks, default=None)


def _cores(line: str) -> tuple[float | None, float | None]:
    found = _CPU.search(line)
    if found is None:
        return None, None
    cores = [match for part in found[1].split(",") if (match := _CORE.fullmatch(part.strip()))]
    loads = [load for match in cores if (load := _percent(match[1])) is not None]
    clocks = [float(clock) for match in cores if (clock := match[2] or found[2]) is not None]
    return (math.fsum(loads) / len(loads) if loads else None), max(clocks, default=None)


def _temperatures(line: str) -> dict[str, float]:
    found = {match[1].lower(): float(match[2]) for match in _TEMPERATURE.finditer(line)}
    return {name: celsius for name, celsius in found.items() if -60 <= celsius <= 200}


class Tegrastats:
    """Runs `tegrastats` and yields its lines as readings."""

    name = "tegrastats"

    def __init__(self, command: str, *, interval_ms: int = 1000, throttle: ThrottleProbe | None = None) -> None:
        """Start `command`. Raises `OSError` if it cannot be started."""
        self._throttle, self._closed = throttle or ThrottleProbe(), False
        # A session of its own, so that whatever it starts ends with it and Ctrl-C reaches us first.
        self._process = subprocess.Popen(
            [command, "--interval", str(interval_ms)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def readings(self) -> Iterator[Reading]:
        output = self._process.stdout
        assert output is not None
        for line in output:
            # A line that was cut when the process ended would give a figure that is cut too.
            if line.endswith("\n"):
                yield replace(parse_line(line), throttle=self._throttle.reasons())

    def close(self) -> None:
        # Once it was waited for, its number may be another process's.
        if self._closed:
            return
        self._closed = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)
                return

    def release(self) -> None:
        """Close the pipe, once nothing reads from it any more."""
        if self._process.stdout is not None:
            self._process.stdout.close()
