"""All rules over one graph."""

from __future__ import annotations

from pathlib import Path

from edgeseg.export.check.convolutions import check_convolutions, check_joins
from edgeseg.export.check.datatypes import check_datatypes
from edgeseg.export.check.findings import Finding, Report, finding, sorted_findings
from edgeseg.export.check.graph import Graph
from edgeseg.export.check.operators import check_operators
from edgeseg.export.check.qdq import DQ, Q, check_pairs
from edgeseg.export.check.read import read_graph


def check_file(path: Path) -> Report:
    """Read the ONNX file at `path` and check it. Raises `EdgesegError` as `read_graph` does."""
    return check_graph(read_graph(path))


def check_graph(graph: Graph) -> Report:
    """Judge every convolution of `graph`, and all else that TensorRT would refuse."""
    pairs = list(check_pairs(graph))
    findings: list[Finding] = [*check_operators(graph), *pairs, *check_datatypes(graph), *check_joins(graph)]
    judged = list(check_convolutions(graph, {item.node for item in pairs if item.severity == "error"}))
    for _, found in judged:
        findings += found
    if judged and not any(node.op in (Q, DQ) for node in graph.nodes):
        findings.append(finding("no-quantisation", "model", "no QuantizeLinear or DequantizeLinear"))
    return Report(findings=sorted_findings(findings), convolutions=tuple(verdict for verdict, _ in judged))
