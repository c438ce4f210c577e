"""The document of a benchmark, `edgeseg/bench/1`: every sample, what was timed, how, and on what.

`schema/bench.schema.json` is the same as JSON Schema, for readers in other languages.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeseg.benchmarks.drift import find_drift
from edgeseg.benchmarks.statistics import PERCENTILES, Estimate, Samples, estimate_percentiles, percentile

SCHEMA: Literal["edgeseg/bench/1"] = "edgeseg/bench/1"
MAX_SAMPLES = 1 << 26

Scenario = Literal["single-stream", "multi-stream", "offline", "server", "live", "cold"]
SCENARIOS: tuple[Scenario, ...] = ("single-stream", "multi-stream", "offline", "server", "live", "cold")

LINES = {
    "backend_ms": "backend only: the engine's own time for the network, without copies",
    "inference_ms": "backend + transfers: fitted frame in host memory to mask in host memory",
    "whole_path_ms": "whole path: the source's frame in memory to the mask at the source's resolution",
    "query_ms": "whole path of a query's eight frames",
    "response_ms": "a frame's arrival to the mask at the source's resolution, waiting for its turn included",
    "frame_age_ms": "capture to the mask at the source's resolution",
    "overhead_ms": "frame age less inference",
    "load_ms": "bundle opened and verified, engine ready",
    "first_inference_ms": "first inference after load",
    "first_mask_ms": "process start to first mask at the source's resolution",
}
"""Every line that is timed, by the field that holds it, and what it runs from and to."""

Milliseconds = Annotated[float, Field(ge=0)]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class Part(BaseModel):
    """Frozen, with no field but its own and no figure that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Part):
    """Where a figure lies with 95 % confidence."""

    low: float
    high: float


class Bounded(Part):
    """A figure with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate) -> Bounded:
        return cls(value=_round(estimate.value), low=_round(estimate.low), high=_round(estimate.high))


class Change(Part):
    """What changed within a run."""

    ratio: Bounded
    """Median of the last third over that of the first."""
    drifted: bool
    throttled_from: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the samples after which the run stayed slower, if it did."""
    throttled_ratio: Bounded | None = None


class Line(Part):
    """One line of times, in milliseconds."""

    what: str
    count: int = Field(ge=1, le=MAX_SAMPLES)
    p50: Milliseconds
    p90: Milliseconds
    p95: Milliseconds
    p99: Milliseconds
    p99_9: Milliseconds | None = None
    """Only where the samples suffice to bound it."""
    max: Milliseconds
    intervals: dict[Literal["p50", "p90", "p95", "p99", "p99_9"], Interval]
    """95 % intervals of those percentiles that the samples suffice to bound."""
    change: Change | None = None
    samples: str
    """Every time in order: little-endian float32, zlib, base64."""

    @classmethod
    def of(cls, name: str, samples_ms: Samples) -> Line:
        """Summarise samples (N,), at least one."""
        estimates = dict(zip(PERCENTILES, estimate_percentiles(samples_ms, [*PERCENTILES.values()]), strict=True))
        figures = {key: _round(percentile(samples_ms, percent)) for key, percent in PERCENTILES.items()}
        drift = find_drift(samples_ms)
        return cls(
            what=LINES[name],
            count=samples_ms.size,
            **{key: value for key, value in figures.items() if key != "p99_9" or estimates[key]},
            max=_round(float(samples_ms.max())),
            intervals={
                key: Interval(low=_round(found.low), high=_round(found.high))
                for key, found in estimates.items()
                if found
            },
            change=drift
            and Change(
                ratio=Bounded.of(drift.ratio),
                drifted=drift.drifted,
                throttled_from=drift.throttled_from,
                throttled_ratio=drift.throttled_ratio and Bounded.of(drift.throttled_ratio),
            ),
            samples=pack_samples(samples_ms),
        )

    @model_validator(mode="after")
    def _samples_are_whole(self) -> Line:
        samples_ms = unpack_samples(self.samples, self.count)
        if self.max != _round(float(samples_ms.max())) or self.p50 != _round(percentile(samples_ms, 50)):
            raise ValueError("the figures are not those of the samples")
        return self

    @property
    def samples_ms(self) -> Samples:
        """(count,) float32, in the order in which they were taken."""
        return unpack_samples(self.samples, self.count)


class BundleName(Part):
    name: str
    manifest_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class TimingPolicy(Part):
    """How it was timed. Runs of different policies are not compared."""

    duration_s: Annotated[float, Field(gt=0)]
    source: str
    warm_up: str
    """The rule by which it was warmed up."""
    clock: str
    generator: str
    """What issued the queries, and by which rules."""


class WarmUp(Part):
    frames: int = Field(ge=0)
    seconds: Annotated[float, Field(ge=0)]
    steady: bool
    """Whether the rule was met; otherwise the warm-up ended at its limit."""


class GpuMoment(Part):
    """The GPU at one time."""

    name: str | None = None
    driver: str | None = None
    """The driver's version; of a Jetson the release of L4T."""
    mhz: float | None = None
    memory_mhz: float | None = None
    max_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    """What the driver holds it to: a PC's power mode."""
    memory_used_mib: float | None = None


class Moment(Part):
    """The machine at one time. What cannot be read is absent."""

    clocks_mhz: tuple[float, ...] | None = None
    temperatures_c: dict[str, float] | None = None
    load_1m: float | None = None
    gpu: GpuMoment | None = None


class Surroundings(Part):
    """What else the machine did during the run."""

    before: Moment
    after: Moment
    own_cores: float | None = None
    """Processor time of this process and its children over the run's time."""
    other_cores: float | None = None
    """The same of everyone else, with what a hypervisor took."""


class LoadGen(Part):
    """What MLPerf LoadGen itself says of the run."""

    version: str
    result: Literal["VALID", "INVALID"]
    """By LoadGen's own rules for the duration asked for, early stopping included; never an MLPerf result."""
    percentile: float | None = None
    latency_ms: Milliseconds | None = None
    """At the scenario's percentile, over whole paths."""
    samples_per_second: Annotated[float, Field(gt=0)] | None = None
    """Of offline; of server, those that were completed."""


class Document(Part):
    """One run."""

    schema_name: Literal["edgeseg/bench/1"] = Field(alias="schema")
    scenario: Scenario
    started: str
    bundle: BundleName
    miou: Annotated[float, Field(ge=0, le=100)] | None = None
    """What the bundle's manifest says that this precision scored, in percent."""
    precision: str
    backend: str
    threads: int = Field(ge=1)
    input_size: Size
    """Height and width of the contract."""
    source_size: Size
    """Height and width of the frames."""
    timing_policy: TimingPolicy
    warm_up: WarmUp | None = None
    environment: dict[str, Any]
    surroundings: Surroundings
    frames: int = Field(ge=1)
    dropped: int | None = Field(default=None, ge=0)
    fps: Annotated[float, Field(gt=0)] | None = None
    """Whole paths a second, over the run's time."""
    telemetry: dict[str, Any] | None = None
    """Power, heat, clocks and throttling of the device during the run, where it tells them."""
    frames_per_joule: Annotated[float, Field(gt=0)] | None = None
    """`fps` over the mean power of the run, its warm-up included."""
    loadgen: LoadGen | None = None
    backend_ms: Line | None = None
    inference_ms: Line | None = None
    whole_path_ms: Line | None = None
    query_ms: Line | None = None
    response_ms: Line | None = None
    frame_age_ms: Line | None = None
    overhead_ms: Line | None = None
    load_ms: Line | None = None
    first_inference_ms: Line | None = None
    first_mask_ms: Line | None = None

    @property
    def lines(self) -> dict[str, Line]:
        """The lines that were timed, in the order of `LINES`."""
        found = {name: getattr(self, name) for name in LINES}
        return {name: line for name, line in found.items() if line is not None}

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types; what is absent is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def pack_samples(samples_ms: Samples) -> str:
    """Return samples (N,) as little-endian float32, zlib, base64."""
    return base64.b64encode(zlib.compress(samples_ms.astype("<f4").tobytes(), 9)).decode()


def unpack_samples(packed: str, count: int) -> Samples:
    """Undo `pack_samples`. Raises `ValueError` unless it holds `count` times, finite and not below zero."""
    try:
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(base64.b64decode(packed, validate=True), 4 * count + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the samples cannot be unpacked: {error}") from None
    if len(data) != 4 * count:
        raise ValueError(f"the samples are not {count}")
    samples = np.frombuffer(data, "<f4").astype(np.float32)
    if not (np.isfinite(samples).all() and (samples >= 0).all()):
        raise ValueError("a sample is not a time")
    return samples


def make_schema(kind: str, model: type[Part]) -> dict[str, Any]:
    """Return the JSON Schema of the document `edgeseg/<kind>/1`."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"edgeseg/{kind}/1"}
    return {**head, **model.model_json_schema()}


def published_schema(kind: str) -> dict[str, Any]:
    """Return what `schema/<kind>.schema.json` holds: `bench` or `versus`."""
    text = (resources.files("edgeseg.benchmarks") / "schema" / f"{kind}.schema.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def _round(value: float) -> float:
    """To the nanosecond where values are milliseconds: what is finer is noise."""
    return round(value, 6)
