"""The same measurement by NVIDIA's trtexec: its command line, and its times as our document.

trtexec 11 turned CUDA graphs and spin-waiting on and data transfers off by default, so the bare tool measures another
thing in 11 than in 10. These lines name what differs: transfers timed and not overlapped, no CUDA graph, no spinning.
"""

from __future__ import annotations

import json
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgeseg.benchmarks.document import SCHEMA, BundleName, Document, Line, Moment, Surroundings, TimingPolicy
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.environment import environment

MAJORS = {
    10: ("--stronglyTyped",),
    11: ("--includeDataTransfers", "--noCudaGraph", "--noSpinWait"),
}
"""TensorRT's major version -> what makes its trtexec measure what `inference_ms` is."""
WARM_UP_MS = 2000
_PRECISIONS = ("int8", "fp16", "fp32")


class _Query(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    compute_ms: Annotated[float, Field(ge=0, alias="computeMs")]
    latency_ms: Annotated[float, Field(ge=0, alias="latencyMs")]


def choose_precision(bundle: Bundle, precision: str) -> str:
    """Return `precision`, or for `auto` the bundle's smallest graph that TensorRT takes."""
    if precision != "auto":
        bundle.model_path(precision)
        return precision
    return next(candidate for candidate in _PRECISIONS if candidate in bundle.precisions)


def trtexec_lines(bundle: Bundle, precision: str, *, duration_s: float) -> dict[int, str]:
    """Return the command for each major version. Durations are whole seconds there."""
    model = bundle.model_path(precision)
    common = (
        *("trtexec", f"--onnx={model}", "--infStreams=1", "--exposeDMA", f"--warmUp={WARM_UP_MS}"),
        *(f"--duration={max(1, round(duration_s))}", "--iterations=1", "--avgRuns=1"),
        "--exportTimes=times.json",
    )
    return {major: shlex.join([*common, *flags]) for major, flags in MAJORS.items()}


def import_times(path: Path, bundle: Bundle, precision: str, *, duration_s: float) -> Document:
    """Return a run from the file that `--exportTimes` wrote, on the machine that it was measured on.

    `backend_ms` is its GPU compute time and `inference_ms` its latency, copies included. trtexec feeds random values
    of the network's own size, so there is no whole path. Raises `BenchmarkError` if the file is not of that kind.
    """
    fix = "name the file that trtexec --exportTimes wrote"
    try:
        queries = TypeAdapter(list[_Query]).validate_python(json.loads(path.read_bytes()))
    except OSError as error:
        raise BenchmarkError(f"cannot read {path}: {error.strerror}", fix=fix) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BenchmarkError(f"{path}: {where}: {first['msg']}", fix=fix) from None
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path} is not JSON: {error}", fix=fix) from error
    if not queries:
        raise BenchmarkError(f"{path} holds no query", fix=fix)
    if not any(query.latency_ms > query.compute_ms for query in queries):
        raise BenchmarkError(
            f"{path} was measured without data transfers", fix="run the line of `edgeseg bench --print-trtexec`"
        )
    stage = bundle.manifest.stages.get(precision)  # type: ignore[call-overload]
    return Document(
        schema=SCHEMA,
        scenario="single-stream",
        started=datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds"),
        bundle=BundleName(name=bundle.name, manifest_sha256=bundle.manifest_sha256),
        miou=stage and stage.miou,
        precision=precision,
        backend="tensorrt",
        threads=1,
        input_size=bundle.contract.size_hw,
        source_size=bundle.contract.size_hw,
        timing_policy=TimingPolicy(
            duration_s=max(1, round(duration_s)),
            source="random values",
            warm_up=f"trtexec: {WARM_UP_MS} ms",
            clock="CUDA events",
            generator="trtexec: one frame a query, one stream, transfers not overlapped",
        ),
        environment=environment(),
        surroundings=Surroundings(before=Moment(), after=Moment()),
        frames=len(queries),
        backend_ms=Line.of("backend_ms", np.array([query.compute_ms for query in queries], np.float32)),
        inference_ms=Line.of("inference_ms", np.array([query.latency_ms for query in queries], np.float32)),
    )
