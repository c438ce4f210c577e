"""What is missing on this machine for `edgeseg run`, and the fix for each.

Everything is asked through a `Machine`, so that tests can show any. Nothing that may be missing is imported here: a
doctor has to work on the machine that has nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from edgeseg.runtime.doctor import engines, surroundings, vision
from edgeseg.runtime.doctor.machine import Finding, Machine

CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (
    surroundings.check_python,
    surroundings.check_jetpack,
    vision.check_numpy,
    vision.check_opencv,
    vision.check_shadows,
    vision.check_cameras,
    vision.check_display,
    engines.check_engines,
    engines.check_telemetry,
    surroundings.check_memory,
    surroundings.check_disk,
    surroundings.check_clock,
    surroundings.check_commands,
)


def examine(machine: Machine | None = None) -> list[Finding]:
    """Look at everything that `edgeseg run` needs or profits from; None is the machine that this runs on.

    Paths in the findings do not tell whose home they lie in: findings go into bug reports.
    """
    patient = machine or Machine()
    home = patient.environ.get("HOME", "/").rstrip("/")
    findings = [finding for check in CHECKS for finding in check(patient)]
    return [replace(finding, found=finding.found.replace(home, "~")) for finding in findings] if home else findings


def is_ready(findings: list[Finding]) -> bool:
    """Whether `edgeseg run` can work with what was found."""
    return all(finding.level != "error" for finding in findings)
