from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result
from tests.export.check.sketch import body, done, start

from edgeseg.export.check_command import check
from edgeseg.runtime.errors import BundleError, EdgesegError, ExportError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(check, [str(argument) for argument in arguments])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    net, _ = start()
    path = tmp_path / "good.onnx"
    onnx.save(done(net, body(net)), path)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    net, x = start()
    path = tmp_path / "bad.onnx"
    onnx.save(done(net, net.op("Conv", net.qdq(x, zero=3), net.weight(32, 32, 3, 3), name="refuse")), path)
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.usefixtures("without_compiler")
def test_sound_graph_passes(good: Path, tmp_path: Path) -> None:
    result = run(good, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "int8: 1 of 1 convolutions can run in INT8, 1 fused" in result.output
    document = read(tmp_path / "out.json")
    assert document["schema"] == "edgeseg/check/1"
    assert (document["model"], document["findings"], document["targets"]) == ("good.onnx", [], {})
    assert document["convolutions"][0]["int8"] is True


@pytest.mark.usefixtures("without_compiler")
def test_rejected_graph_fails_and_still_writes_its_document(bad: Path, tmp_path: Path) -> None:
    result = run(bad, "--json", tmp_path / "out.json")
    assert isinstance(result.exception, ExportError)
    assert "zero-point 3" in str(result.exception)
    finding = read(tmp_path / "out.json")["findings"][0]
    assert (finding["rule"], finding["severity"]) == ("zero-point", "error")
    assert finding["node"].startswith("quantizelinear")
    assert finding["mend"]


@pytest.mark.usefixtures("without_compiler")
def test_target_without_compiler_is_one_line(good: Path) -> None:
    result = run(good, "--target", "sm86")
    assert isinstance(result.exception, ExportError)
    assert "edgeseg[aot]" in str(result.exception)


@pytest.mark.usefixtures("fake_compiler")
def test_targets_are_reported(good: Path, tmp_path: Path) -> None:
    result = run(good, "--target", "sm86,sm89", "--json", tmp_path / "out.json", "--picture", tmp_path / "plan.svg")
    assert result.exit_code == 0, result.output
    targets = read(tmp_path / "out.json")["targets"]
    assert list(targets) == ["sm86", "sm89"]
    assert {"convolutions", "convolutions_int8", "kernels", "activation_bytes", "weight_bytes"} <= set(
        targets["sm86"]["int8"]
    )
    assert "sm89 int8" in (tmp_path / "plan.svg").read_text()


@pytest.mark.usefixtures("fake_compiler")
def test_compilers_refusal_is_reported_after_the_rule_that_explains_it(bad: Path, tmp_path: Path) -> None:
    result = run(bad, "--target", "sm86", "--json", tmp_path / "out.json")
    assert isinstance(result.exception, ExportError)
    document = read(tmp_path / "out.json")
    assert [item["rule"] for item in document["findings"][:3]] == ["zero-point", "zero-point", "compiler-rejects"]
    assert document["targets"]["sm86"]["int8"] == {"refused": "conv (Conv): no"}


@pytest.mark.parametrize("targets", ["sm87", "", "sm86,foo"])
def test_unknown_target_is_wrong_usage(good: Path, targets: str) -> None:
    assert run(good, "--target", targets).exit_code == 2


@pytest.mark.usefixtures("fake_compiler")
def test_picture_of_another_kind_is_wrong_usage(good: Path, tmp_path: Path) -> None:
    assert run(good, "--picture", tmp_path / "plan.bmp").exit_code == 2


def test_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    result = run(path)
    assert isinstance(result.exception, EdgesegError)
    assert "not an ONNX model" in str(result.exception)


def test_missing_bundle_is_one_line(tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "none").exception, BundleError)


@pytest.mark.usefixtures("without_compiler")
def test_bundle_is_checked_with_its_golden_frames(tiny_bundle: Path, tmp_path: Path) -> None:
    result = run(tiny_bundle, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    document = read(tmp_path / "out.json")
    assert document["bundle"]["name"] == "tiny"
    assert document["golden"] == [{"precision": "fp32", "frame": "blocks", "agreement": 1.0, "required": 1.0}]
    assert {item["rule"] for item in document["findings"]} == {"no-quantisation"}


def test_help_ends_with_an_example() -> None:
    assert "Example: edgeseg check" in run("--help").output.splitlines()[-1]
