from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.export.check.zoo import CASES, Case

from edgeseg.export.check.compile import Refusal, compile_graph
from edgeseg.export.check.convolutions import CONVOLUTIONS
from edgeseg.export.check.findings import Report, Verdict, finding
from edgeseg.export.check.operators import NEEDS_PLUGIN, SUPPORTED
from edgeseg.export.check.plan import Engine, read_engine
from edgeseg.export.check.reconcile import reconcile
from edgeseg.export.check.rules import check_file
from edgeseg.runtime.errors import ExportError

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="NVIDIA's compiler is not installed: edgeseg[aot]"
)
# One of each kind; the rest takes minutes.
QUICK = ("good_residual", "zero", "relu", "transpose", "if_nested", "qlinearconv", "scale_dynamic", "dynamic_batch")


def judge(case: Case, folder: Path) -> str:
    """Return what the compiler makes of a graph, as the tables write it."""
    path = folder / "model.onnx"
    onnx.save(case.make(), path)
    verdicts = check_file(path).convolutions
    found = compile_graph(path, "sm86", tuple(verdict.node for verdict in verdicts if verdict.op in CONVOLUTIONS))
    if isinstance(found, Refusal):
        return "rejected"
    # Matrix products are no convolutions to the compiler's figures; for them the rules' word stands.
    others = [verdict for verdict in verdicts if verdict.op not in CONVOLUTIONS]
    in_int8 = len(found.int8_convolutions) + sum(verdict.int8 for verdict in others)
    return f"{in_int8}/{len(found.int8_convolutions) + len(found.float_convolutions) + len(others)}"


@needs_compiler
@pytest.mark.parametrize("case", [case for case in CASES if case.name.endswith(QUICK)], ids=lambda case: case.name)
def test_table_is_what_the_compiler_does(case: Case, tmp_path: Path) -> None:
    assert judge(case, tmp_path) == case.compiled


@needs_compiler
@pytest.mark.heavy
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whole_table_is_what_the_compiler_does(case: Case, tmp_path: Path) -> None:
    assert judge(case, tmp_path) == case.compiled


@needs_compiler
def test_operator_list_is_the_parsers() -> None:
    trt: Any = importlib.import_module("tensorrt_rtx")
    logger = trt.Logger(trt.ILogger.ERROR)
    parser = trt.OnnxParser(trt.Builder(logger).create_network(0), logger)
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    affirmed = {name for name in names if parser.supports_operator(name)}
    assert affirmed - NEEDS_PLUGIN == SUPPORTED & names


def save(folder: Path, text: bytes = b"anything") -> Path:
    path = folder / "model.onnx"
    path.write_bytes(text)
    return path


def test_missing_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.export.check.compile.have_compiler", lambda: False)
    with pytest.raises(ExportError, match=r"edgeseg\[aot\].*x86-64"):
        compile_graph(save(tmp_path), "sm86", ())


@pytest.mark.usefixtures("fake_compiler")
def test_compiled_graph_gives_the_figures_of_its_log(tmp_path: Path) -> None:
    engine = compile_graph(save(tmp_path), "sm86", ("first",))
    assert isinstance(engine, Engine)
    assert engine.int8_convolutions == ("first",)


@pytest.mark.usefixtures("fake_compiler")
def test_refusal_names_the_node_and_leaves_out_the_librarys_own_places(tmp_path: Path) -> None:
    assert compile_graph(save(tmp_path, b"refuse"), "sm86", ()) == Refusal(reason="conv (Conv): no")


def test_crash_of_the_library_is_one_line(tmp_path: Path, install_compiler: Callable[[str], None]) -> None:
    install_compiler("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert compile_graph(save(tmp_path), "sm86", ()) == Refusal(reason="the compiler crashed (SIGSEGV)")


def test_library_that_cannot_be_loaded_is_one_line(tmp_path: Path, install_compiler: Callable[[str], None]) -> None:
    install_compiler("raise ImportError('libcudart.so: no such file')")
    found = compile_graph(save(tmp_path), "sm86", ())
    assert found == Refusal(reason="the compiler failed: ImportError: libcudart.so: no such file")


def test_compiler_that_does_not_end_is_stopped(tmp_path: Path, install_compiler: Callable[[str], None]) -> None:
    install_compiler("import threading; threading.Event().wait()")
    assert compile_graph(save(tmp_path), "sm86", (), time_limit_s=1) == Refusal(reason="not compiled within 1 s")


def report(*rules: str, int8: bool) -> Report:
    verdict = Verdict(node="first", op="Conv", int8=int8, fused=int8, rules=rules)
    return Report(findings=tuple(finding(rule, "first", "") for rule in rules), convolutions=(verdict,))


def test_refusal_becomes_an_error() -> None:
    told = reconcile(report(int8=True), {"sm86": Refusal(reason="no")})
    assert [(item.rule, item.found) for item in told.findings] == [("compiler-rejects", "sm86: no")]
    assert told.failed


def test_error_that_the_compiler_does_not_confirm_becomes_a_warning(compiler_log: str) -> None:
    engine = read_engine(compiler_log, ["first"])
    told = reconcile(report("zero-point", int8=False), {"sm86": engine})
    assert [item.severity for item in told.findings] == ["warning"]


def test_convolution_that_came_out_in_int8_keeps_its_findings_as_advice(compiler_log: str) -> None:
    engine = read_engine(compiler_log, ["first"])
    told = reconcile(report("between-dq-and-consumer", int8=False), {"sm86": engine})
    assert [item.severity for item in told.findings] == ["advice"]
    assert told.convolutions[0].int8


def test_convolution_that_came_out_in_float_gets_a_finding(compiler_log: str) -> None:
    engine = read_engine(compiler_log.replace("Datatype: Int8", "Datatype: Half"), ["first"])
    told = reconcile(report(int8=True), {"sm86": engine})
    assert [(item.rule, item.node) for item in told.findings] == [("compiled-in-float", "first")]
    assert not told.convolutions[0].int8


def test_rules_stand_where_nothing_was_compiled() -> None:
    told = report("between-dq-and-consumer", int8=False)
    assert reconcile(told, {}) == told
