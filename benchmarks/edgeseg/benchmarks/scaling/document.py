"""The document `edgeseg/scaling/1`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from edgeseg.benchmarks.document import Bounded, Part, Surroundings
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.scaling.fit import fit_exponent

Positive = Annotated[float, Field(gt=0)]


class Point(Part):
    """What was measured at one place of an axis."""

    x: Positive
    times: tuple[Positive, ...] = Field(min_length=1)
    """One for each round, in the axis' unit."""
    memory_mib: Annotated[float, Field(ge=0)] | None = None

    @property
    def time(self) -> float:
        """The median."""
        return median(self.times)


class Axis(Part):
    """How time and memory grow along one thing that can be had more of."""

    what: str
    x_unit: str
    time_what: str
    time_unit: str
    memory_what: str
    settings: dict[str, Any]
    """Beside what this axis was measured; a resumed run keeps it only if they are the same."""
    points: tuple[Point, ...] = Field(min_length=2)
    time_exponent: Bounded | None = None
    memory_exponent: Bounded | None = None

    @classmethod
    def of(cls, points: Sequence[Point], **facts: Any) -> Axis:
        """Fit the exponents; one that the points cannot bound is absent."""
        time = fit_exponent([p.x for p in points for _ in p.times], [time for p in points for time in p.times])
        known = [(p.x, p.memory_mib) for p in points if p.memory_mib]
        memory = fit_exponent([x for x, _ in known], [mib for _, mib in known])
        return cls(
            points=tuple(points),
            time_exponent=time and Bounded.of(time),
            memory_exponent=memory and Bounded.of(memory),
            **facts,
        )


class Scaling(Part):
    """One run of `edgeseg scaling`, or what it has got to."""

    schema_name: Literal["edgeseg/scaling/1"] = Field(alias="schema")
    started: str
    axes: dict[str, Axis]
    environment: dict[str, Any]
    surroundings: Surroundings | None = None
    """Absent from a run that was cut off."""

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types; what is absent is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def read_scaling(path: Path) -> Scaling:
    """Read what `edgeseg scaling --json` wrote. Raises `BenchmarkError`, one line, for anything else."""
    fix = "name a file that `edgeseg scaling --json` wrote, or leave --resume out"
    try:
        return Scaling.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"cannot read {path}: {error.strerror}", fix=fix) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise BenchmarkError(f"{path}: {where}: {first['msg']}", fix=fix) from None
