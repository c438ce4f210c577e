from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from tests.export.check.sketch import Net, body, done, start
from tests.export.check.zoo import CASES, Case

from edgeseg.export.check.findings import RULES, Report
from edgeseg.export.check.rules import check_file


def check(model: onnx.ModelProto, folder: Path) -> Report:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return check_file(path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rules_find_what_is_wrong_and_nothing_else(case: Case, tmp_path: Path) -> None:
    report = check(case.make(), tmp_path)
    assert {item.rule for item in report.findings} == case.rules


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdicts_are_the_compilers(case: Case, tmp_path: Path) -> None:
    report = check(case.make(), tmp_path)
    assert report.failed == (case.compiled == "rejected")
    if not report.failed:
        in_int8 = sum(verdict.int8 for verdict in report.convolutions)
        assert f"{in_int8}/{len(report.convolutions)}" == case.compiled


def test_every_rule_is_tried() -> None:
    broken = {rule for case in CASES for rule in case.rules}
    from_the_compiler = {"compiler-rejects", "compiled-in-float"}
    assert set(RULES) - broken == from_the_compiler | {"convolution-in-float"}


def test_no_graph_appears_twice() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 25


def test_finding_names_the_node_and_the_mend(tmp_path: Path) -> None:
    net, _ = start()
    y = net.conv(net.qdq(body(net)), 32, 32, name="left in float", quantized=False)
    report = check(done(net, y), tmp_path)
    (found,) = report.findings
    assert (found.rule, found.node, found.severity) == ("weight-not-quantised", "left in float", "warning")
    assert "INT8 weights" in found.mend


def test_convolution_left_in_float_is_one_finding(tmp_path: Path) -> None:
    net, _ = start()
    y = net.conv(body(net), 32, 32, name="raised", quantized=False)
    report = check(done(net, y), tmp_path)
    assert [(item.rule, item.node) for item in report.findings] == [("convolution-in-float", "raised")]
    assert [verdict.int8 for verdict in report.convolutions] == [True, False]


def test_unnamed_node_has_the_parsers_name(tmp_path: Path) -> None:
    net, x = start()
    report = check(done(net, net.op("Conv", x, net.weight(32, 32, 3, 3), name="")), tmp_path)
    assert report.findings[0].node == f"node_of_{net.nodes[-1].output[0]}"


def test_later_convolution_of_two_is_told_of_the_skip(tmp_path: Path) -> None:
    net, x = start()
    y = body(net, x)
    skip = net.conv(y, 32, 32, 1, name="projection")
    out = net.op("Add", net.conv(y, 32, 32, name="main"), skip)
    report = check(done(net, out), tmp_path)
    assert [(item.rule, item.node) for item in report.findings] == [("skip-not-quantised", "main")]
    assert {verdict.node: verdict.fused for verdict in report.convolutions} == {
        "first": True,
        "projection": True,
        "main": False,
    }


def test_errors_come_first(tmp_path: Path) -> None:
    net, x = start(21)
    y = net.op("Conv", net.qdq(x, zero=3), net.weight(32, 32, 3, 3), name="conv")
    y = net.op("Cast", net.op("ArgMax", y, axis=1), to=TensorProto.UINT8)
    report = check(done(net, y, dtype=TensorProto.UINT8), tmp_path)
    severities = [item.severity for item in report.findings]
    assert severities == sorted(severities, key=("error", "warning", "advice").index)
    assert {"zero-point", "opset-over-20", "uint8-output-from-integer"} <= {item.rule for item in report.findings}


def test_pair_that_is_rejected_leaves_its_convolution_in_float(tmp_path: Path) -> None:
    net, x = start()
    report = check(done(net, net.op("Conv", net.qdq(x, 0.0), net.weight(32, 32, 3, 3), name="conv")), tmp_path)
    assert [verdict.int8 for verdict in report.convolutions] == [False]


def test_concats_of_concats_take_no_longer_than_their_number(tmp_path: Path) -> None:
    net = Net()
    y = net.qdq(net.input([1, 1, 4, 4]))
    for _ in range(300):
        y = net.op("Concat", y, y, axis=2)
    report = check(done(net, net.op("Conv", y, net.weight(16, 1, 1, 1), name="conv")), tmp_path)
    assert len(report.convolutions) == 1
