"""`edgeseg compare` compares what can be compared, and names what cannot."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeseg.benchmarks.compare_command import compare
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.report import COLOURS
from edgeseg.runtime.bundle import open_bundle, write_bundle
from edgeseg.runtime.manifest import Golden

MakeRun = Callable[..., dict[str, Any]]


@pytest.fixture
def run_compare(tmp_path: Path) -> Callable[..., Result]:
    """Write two runs to desktop.json and jetson.json, and compare them."""

    def run(base: dict[str, Any], other: dict[str, Any], *words: str | Path) -> Result:
        paths = [tmp_path / "desktop.json", tmp_path / "jetson.json"]
        for path, document in zip(paths, (base, other), strict=True):
            path.write_text(json.dumps(document))
        return CliRunner().invoke(compare, [str(word) for word in (*paths, *words)])

    return run


@pytest.fixture
def device_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle with an FP16 graph, which computes the same."""
    folder, manifest = tmp_path / "device", open_bundle(tiny_bundle).manifest
    shutil.copytree(tiny_bundle, folder)
    (folder / "manifest.json").unlink()
    shutil.copy(folder / "model.fp32.onnx", folder / "model.fp16.onnx")
    stage = manifest.stages["fp32"]
    golden = Golden(frames=manifest.golden.frames, agreement={"fp32": 1.0, "fp16": 1.0})
    write_bundle(
        folder,
        name="yard",
        contract=manifest.contract,
        stages={"fp32": stage, "fp16": stage},
        golden=golden,
        provenance=manifest.provenance,
    )
    return folder


def test_alike_runs_are_compared_by_the_ratio_of_medians(
    make_run: MakeRun, run_compare: Callable[..., Result], tmp_path: Path
) -> None:
    result = run_compare(make_run(10.0), make_run(25.0, seed=1), "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["schema"] == "edgeseg/compare/1" and found["forced_over"] == []
    for line in ("inference_ms", "whole_path_ms"):
        ratio = found["lines"][line]["ratio"]
        assert ratio["low"] < 2.5 < ratio["high"]
        assert ratio["high"] - ratio["low"] < 0.2


def test_device_precision_backend_and_threads_may_differ(make_run: MakeRun, run_compare: Callable[..., Result]) -> None:
    other = make_run(precision="int8", backend="tensorrt", threads=6, environment={"device": "Orin"})
    assert run_compare(make_run(), other).exit_code == 0


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"bundle__manifest_sha256": "2" * 64}, "bundle.manifest_sha256"),
        ({"input_size": [64, 128]}, "input_size"),
        ({"source_size": [720, 1280]}, "source_size"),
        ({"scenario": "offline"}, "scenario"),
        ({"timing_policy__duration_s": 5.0}, "timing_policy.duration_s"),
        ({"timing_policy__source": "0"}, "timing_policy.source"),
        ({"timing_policy__warm_up": "none"}, "timing_policy.warm_up"),
        ({"timing_policy__clock": "CUDA events"}, "timing_policy.clock"),
        ({"timing_policy__generator": "trtexec"}, "timing_policy.generator"),
    ],
)
def test_unlike_runs_are_refused_by_the_field_and_forced_with_a_watermark(
    make_run: MakeRun, run_compare: Callable[..., Result], tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    html, out = tmp_path / "report.html", tmp_path / "out.json"
    refused = run_compare(make_run(), make_run(**changes), "--html", html)
    assert isinstance(refused.exception, BenchmarkError)
    assert f"{field}: " in str(refused.exception)
    assert not html.exists()

    forced = run_compare(make_run(), make_run(**changes), "--html", html, "--json", out, "--force")
    assert forced.exit_code == 0, forced.output
    assert f"NOT COMPARABLE, forced: {field}" in " ".join(forced.output.split())
    assert json.loads(out.read_text())["forced_over"] == [field]
    page = html.read_text()
    assert "NOT COMPARABLE" in page and field in page


def test_runs_without_a_line_in_common_are_refused_even_by_force(
    make_run: MakeRun, run_compare: Callable[..., Result]
) -> None:
    cold = make_run(scenario="cold")
    cold["load_ms"] = {**cold.pop("inference_ms"), "what": "load"}
    del cold["whole_path_ms"]
    result = run_compare(make_run(), cold, "--force")
    assert isinstance(result.exception, BenchmarkError)
    assert "no line in common" in str(result.exception)


def test_whole_runs_are_compared_by_rate_energy_and_accuracy(
    make_run: MakeRun, run_compare: Callable[..., Result], tmp_path: Path
) -> None:
    html, out = tmp_path / "report.html", tmp_path / "out.json"
    base, other = make_run(10.0, frames_per_joule=4.0), make_run(20.0, frames_per_joule=6.0, seed=1)
    result = run_compare(base, other, "--json", out, "--html", html)
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())["figures"]
    assert figures["fps"] == {"base": 100.0, "other": 50.0, "ratio": 0.5}
    assert figures["frames_per_joule"] == {"base": 4.0, "other": 6.0, "ratio": 1.5}
    # 70.5 points in about ten and twenty milliseconds.
    assert figures["miou_per_ms"]["base"] == pytest.approx(7.05, rel=0.05)
    assert figures["miou_per_ms"]["ratio"] == pytest.approx(0.5, rel=0.05)
    assert "frames a joule: 4 and 6, 1.50x" in result.output
    assert "frames a joule" in html.read_text()


def test_energy_that_one_run_lacks_is_not_compared(make_run: MakeRun, run_compare: Callable[..., Result]) -> None:
    result = run_compare(make_run(frames_per_joule=4.0), make_run())
    assert result.exit_code == 0
    assert "joule" not in result.output


def test_roofline_stands_beside_what_was_measured(
    make_run: MakeRun, run_compare: Callable[..., Result], device_bundle: Path, tmp_path: Path
) -> None:
    sha256 = open_bundle(device_bundle).manifest_sha256
    html, out = tmp_path / "report.html", tmp_path / "out.json"
    runs = [
        make_run(ms, precision="fp16", bundle__manifest_sha256=sha256, environment={"device": "Orin"}) for ms in (10, 5)
    ]
    words = ("--bundle", device_bundle, "--base-device", "orin-nano-8gb", "--other-device", "agx-orin-64gb")
    result = run_compare(*runs, *words, "--html", html, "--json", out)
    assert result.exit_code == 0, result.output
    roofs = json.loads(out.read_text())["rooflines"]
    assert [roof["device"] for roof in roofs] == ["Jetson Orin Nano 8GB", "Jetson AGX Orin 64GB"]
    for roof, run in zip(roofs, runs, strict=True):
        assert roof["line"] == "inference_ms" and roof["measured_ms"] == round(run["inference_ms"]["p50"], 4)
        assert 0 < roof["bound_ms"] <= roof["uncached_ms"] < roof["measured_ms"]
        assert roof["share"] == pytest.approx(roof["bound_ms"] / roof["measured_ms"], abs=1e-3)
    assert "Roofline beside measurement" in html.read_text()


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"precision": "fp16"}, "is not what desktop measured"),
        ({"precision": "int8-cpu"}, "desktop ran in int8-cpu: it has no roofline"),
    ],
)
def test_roofline_of_another_network_or_precision_is_refused(
    make_run: MakeRun, run_compare: Callable[..., Result], device_bundle: Path, changes: dict[str, Any], problem: str
) -> None:
    words = ("--bundle", device_bundle, "--base-device", "orin-nano-8gb")
    result = run_compare(make_run(**changes), make_run(**changes), *words)
    assert isinstance(result.exception, BenchmarkError)
    assert problem in str(result.exception)


def test_what_a_reader_must_know_is_said(make_run: MakeRun, run_compare: Callable[..., Result]) -> None:
    busy = make_run(surroundings__other_cores=1.5, warm_up__steady=False)
    throttled = make_run()
    throttled["inference_ms"]["change"] = {
        "ratio": {"value": 1.4, "low": 1.3, "high": 1.5},
        "drifted": True,
        "throttled_from": 0.5,
        "throttled_ratio": {"value": 1.4, "low": 1.3, "high": 1.5},
    }
    output = " ".join(run_compare(busy, throttled).output.split())
    assert "desktop: warm-up was not steady" in output
    assert "desktop: the machine was busy: others used 1.5 of 4 cores" in output
    assert "jetson: inference_ms stayed 1.40x [1.30, 1.50] as long after 50% of the run" in output


def test_page_is_whole_in_itself_and_escapes_what_it_is_given(
    make_run: MakeRun, run_compare: Callable[..., Result], tmp_path: Path
) -> None:
    html = tmp_path / "report.html"
    hostile = make_run(environment={"device": "<img src=https://example.org/x>"})
    assert run_compare(make_run(), hostile, "--html", html).exit_code == 0
    page = html.read_text()
    assert "<img" not in page.split("</head>")[1]
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", page)
    assert len(page) < 3 << 20
    assert "NOT COMPARABLE" not in page


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium: apt-get install chromium")
    return found


def near(screenshot: Path, colour: str) -> int:
    """Count the pixels that show `#rrggbb`."""
    picture = cv2.imread(str(screenshot))
    assert picture is not None
    rgb = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
    return int(np.all(np.abs(picture[..., ::-1].astype(int) - rgb) < 24, axis=-1).sum())


def test_browser_without_a_network_draws_both_runs_and_prints_them(
    chromium: str, make_run: MakeRun, run_compare: Callable[..., Result], tmp_path: Path
) -> None:
    html, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    screenshot, without = tmp_path / "shot.png", tmp_path / "without.png"
    assert run_compare(make_run(10.0), make_run(14.0, seed=1), "--html", html).exit_code == 0
    browser = [
        *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars", "--virtual-time-budget=10000"),
        *("--enable-logging=stderr", "--window-size=900,2600"),
    ]
    plain = tmp_path / "plain.html"
    plain.write_text(re.sub(r"<script.*?</script>", "", html.read_text(), flags=re.S))
    orders = ((plain, f"--screenshot={without}"), (html, f"--screenshot={screenshot}"), (html, f"--print-to-pdf={pdf}"))
    for page, order in orders:
        done = subprocess.run([*browser, order, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        assert not re.search(r"CONSOLE.*error", done.stderr, re.I), done.stderr
    for colour in COLOURS:
        # Without its scripts the page shows the runs' names in their colours, and no plot.
        assert near(without, colour) > 0
        assert near(screenshot, colour) - near(without, colour) > 1000
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 50_000
