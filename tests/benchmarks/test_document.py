"""The document of a run holds every sample, and nothing else is taken for one."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeseg.benchmarks.document import (
    LINES,
    Document,
    Line,
    Part,
    make_schema,
    pack_samples,
    published_schema,
    unpack_samples,
)
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.reading import read_document
from edgeseg.benchmarks.statistics import Samples
from edgeseg.benchmarks.versus import Versus

MakeRun = Callable[..., dict[str, Any]]
SAMPLES = arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1e6, width=32))


@given(SAMPLES)
def test_samples_come_back_bit_for_bit(samples: Samples) -> None:
    assert unpack_samples(pack_samples(samples), samples.size).tobytes() == samples.tobytes()


@given(SAMPLES)
def test_line_reads_back_from_its_json(samples: Samples) -> None:
    line = Line.of("inference_ms", samples)
    assert Line.model_validate_json(line.model_dump_json(exclude_none=True)) == line
    assert line.p50 <= line.p90 <= line.p95 <= line.p99 <= line.max


@pytest.mark.parametrize("kind, model", [("bench", Document), ("versus", Versus)])
def test_published_schema_is_the_document_s(kind: str, model: type[Part]) -> None:
    assert published_schema(kind) == make_schema(kind, model)
    jsonschema.Draft202012Validator.check_schema(published_schema(kind))


def test_every_line_is_a_field_of_the_document() -> None:
    assert set(LINES) == {name for name in Document.model_fields if name.endswith("_ms")}


def test_run_keeps_the_schema_and_reads_back(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    jsonschema.validate(run, published_schema("bench"))
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert read_document(tmp_path / "run.json").document() == run


def test_tail_that_the_samples_cannot_bound_has_no_interval(make_run: MakeRun) -> None:
    few, many = make_run(count=100)["inference_ms"], make_run(count=4000)["inference_ms"]
    assert set(few["intervals"]) == {"p50", "p90", "p95"}
    assert "p99_9" not in few
    assert set(many["intervals"]) == {"p50", "p90", "p95", "p99", "p99_9"}
    assert many["p99"] <= many["p99_9"] <= many["max"]


def packed(values: list[float]) -> str:
    return pack_samples(np.array(values, np.float32))


@pytest.mark.parametrize(
    "field, value, told",
    [
        ("schema", "edgeseg/run/1", "edgeseg/bench/1"),
        ("scenario", "swarm", "scenario"),
        ("surprise", 1, "surprise"),
        ("bundle__manifest_sha256", "none", "manifest_sha256"),
        ("inference_ms__count", 399, "not 399"),
        ("inference_ms__p50", 1.0, "not those of the samples"),
        ("inference_ms__samples", "no base64", "cannot be unpacked"),
        ("inference_ms__samples", base64.b64encode(b"no zlib").decode(), "cannot be unpacked"),
        ("inference_ms__samples", base64.b64encode(zlib.compress(bytes(1 << 24))).decode(), "not 400"),
        ("inference_ms__samples", packed([float("nan")] * 400), "not a time"),
        ("inference_ms__samples", packed([-1.0] * 400), "not a time"),
    ],
)
def test_run_that_is_not_whole_is_refused_in_one_line(
    make_run: MakeRun, tmp_path: Path, field: str, value: Any, told: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(make_run(**{field: value})))
    with pytest.raises(BenchmarkError, match=told) as caught:
        read_document(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "nothing", "[" * 100_000])
def test_file_that_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BenchmarkError, match=r"run\.json"):
        read_document(tmp_path / "run.json")
    with pytest.raises(BenchmarkError, match="No such file"):
        read_document(tmp_path / "absent.json")
