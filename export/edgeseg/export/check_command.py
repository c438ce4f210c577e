"""`edgeseg check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from edgeseg.export.check.compile import (
    DEFAULT_TARGETS,
    TARGETS,
    Refusal,
    compile_graph,
    have_compiler,
    require_compiler,
)
from edgeseg.export.check.convolutions import CONVOLUTIONS
from edgeseg.export.check.explain_report import (
    Explained,
    explain_bundle,
    explain_document,
    refuse_divergence,
    say_explained,
)
from edgeseg.export.check.findings import Finding, Report, Severity
from edgeseg.export.check.golden import Agreement, RealAgreement, check_golden, compare_on_dataset
from edgeseg.export.check.graph import Graph, guess_precision
from edgeseg.export.check.picture import draw_engines
from edgeseg.export.check.plan import Engine
from edgeseg.export.check.read import read_graph
from edgeseg.export.check.reconcile import reconcile
from edgeseg.export.check.rules import check_graph
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.errors import EdgesegError, ExportError
from edgeseg.runtime.files import write_bytes

# Its placement is for ONNX Runtime's kernels: TensorRT never gets to see it.
_NOT_FOR_TENSORRT = "int8-cpu"
_SHOWN = 5
_COLOURS = {"error": "red", "warning": "yellow", "advice": "cyan"}

Compiled = dict[str, dict[str, "Engine | Refusal"]]
"""Target -> precision -> outcome."""


def _read_targets(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    targets = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    if not targets or any(target not in TARGETS for target in targets):
        raise click.BadParameter(f"{value!r}: choose from {', '.join(TARGETS)}")
    return targets


@click.command(epilog="Example: edgeseg check model.onnx --target sm86,sm89 --picture plan.svg")
@click.argument("model", metavar="MODEL.onnx|BUNDLE")
@click.option(
    "--target",
    "targets",
    callback=_read_targets,
    metavar="sm86,sm89",
    help=f"What to compile for.  [default: {','.join(DEFAULT_TARGETS)} where tensorrt-rtx is installed]",
)
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg", help="Draw the compiled engines."
)
@click.option("--explain", is_flag=True, help="Compare a bundle's precisions with fp32, step by step.")
@click.option(
    "--frame", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="--explain on this picture."
)
@click.option(
    "--run", type=click.Path(exists=True, file_okay=False, path_type=Path), help="--explain the run it was made of too."
)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Compare the precisions on real pictures.")
@click.option("--split", default="test", show_default=True, help="The split of --data.")
@json_option
def check(
    model: str,
    targets: tuple[str, ...] | None,
    picture: Path | None,
    explain: bool,
    frame: Path | None,
    run: Path | None,
    data: Path | None,
    split: str,
    json_path: Path | None,
) -> None:
    """Tell what TensorRT will make of MODEL: which convolutions run in INT8, fused, and why the others do not.

    With edgeseg[aot] the graph is compiled by NVIDIA's compiler too; no GPU is needed. Of a bundle, its contract,
    hashes and golden frames are checked as well; --explain names the first tensor of each precision that loses more
    than it may. Exit status 1 if TensorRT rejects a graph, a golden frame comes out wrong, or a tensor diverges.
    """
    if (frame is not None or run is not None) and not explain:
        raise click.UsageError("--frame and --run go with --explain")
    if targets is not None or picture is not None:
        require_compiler()
    if picture is not None and picture.suffix != ".svg":
        raise click.BadParameter(f"{picture.name!r} does not end in .svg", param_hint="--picture")
    chosen = targets or (DEFAULT_TARGETS if have_compiler() else ())
    path = Path(model)
    fields: dict[str, Any]
    agreements: list[Agreement] = []
    explained: Explained = {}
    real: list[RealAgreement] = []
    if path.suffix == ".onnx" and not path.is_dir():
        if explain or data is not None:
            raise click.UsageError("--explain and --data compare the precisions of a bundle")
        graph = read_graph(path)
        fields = {"model": path.name}
        reports, compiled = _check_graphs({guess_precision(graph): (path, graph)}, chosen)
    else:
        with open_bundle(model) as bundle:
            fields = {"bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256}}
            files = {name: bundle.model_path(name) for name in bundle.precisions if name != _NOT_FOR_TENSORRT}
            reports, compiled = _check_graphs({name: (file, read_graph(file)) for name, file in files.items()}, chosen)
            agreements = check_golden(bundle)
            real = _compare_on(bundle, data, split)
            explained = explain_bundle(bundle, frame, run) if explain else {}
    _say(reports, compiled, [*agreements, *real])
    if explained:
        say_explained(explained)
        fields["explain"] = explain_document(explained)
    if real:
        fields["real"] = [asdict(item) for item in real]
    if picture is not None:
        _draw(picture, compiled)
    write_document(json_path, "check", **fields, **_document(reports, compiled, agreements))
    _fail(reports, agreements)
    refuse_divergence(explained)


def _compare_on(bundle: Bundle, data: Path | None, split: str) -> list[RealAgreement]:
    return compare_on_dataset(bundle, load_dataset(data), split) if data is not None else []


def _check_graphs(
    graphs: Mapping[str, tuple[Path, Graph]], targets: tuple[str, ...]
) -> tuple[dict[str, Report], Compiled]:
    reports: dict[str, Report] = {}
    compiled: Compiled = {target: {} for target in targets}
    with progress("checking", total=len(graphs) * (1 + len(targets))) as advance:
        for precision, (path, graph) in graphs.items():
            report = check_graph(graph)
            names = tuple(verdict.node for verdict in report.convolutions if verdict.op in CONVOLUTIONS)
            advance()
            for target in targets:
                compiled[target][precision] = compile_graph(path, target, names)
                advance()
            reports[precision] = reconcile(report, {target: compiled[target][precision] for target in targets})
    return reports, compiled


def _document(reports: Mapping[str, Report], compiled: Compiled, agreements: list[Agreement]) -> dict[str, Any]:
    findings, convolutions = [], []
    for precision, report in reports.items():
        findings += [{"precision": precision, **asdict(item)} for item in report.findings]
        convolutions += [{"precision": precision, **asdict(item)} for item in report.convolutions]
    targets = {
        target: {
            precision: {"refused": item.reason} if isinstance(item, Refusal) else item.document()
            for precision, item in row.items()
        }
        for target, row in compiled.items()
    }
    golden = {"golden": [asdict(item) for item in agreements]} if agreements else {}
    return {"findings": findings, "convolutions": convolutions, "targets": targets, **golden}


def _say(reports: Mapping[str, Report], compiled: Compiled, agreements: Sequence[Agreement | RealAgreement]) -> None:
    for precision, report in reports.items():
        _say_findings(precision, report)
        ready = sum(verdict.int8 for verdict in report.convolutions)
        fused = sum(verdict.fused for verdict in report.convolutions)
        console.print(f"{precision}: {ready} of {len(report.convolutions)} convolutions can run in INT8, {fused} fused")
    for target, row in compiled.items():
        for precision, item in row.items():
            console.print(f"{target} {precision}: {escape(_summary(item))}")
    if not compiled:
        console.print("not compiled: with edgeseg\\[aot] (x86-64) NVIDIA's compiler has the last word")
    for agreement in agreements:
        console.print(escape(str(agreement)))


def _say_findings(precision: str, report: Report) -> None:
    """Show one row for each rule that is broken, with the nodes that break it."""
    if not report.findings:
        return
    table = Table("", "rule", "found", "mend", title=precision)
    rows: dict[tuple[Severity, str], list[Finding]] = {}
    for item in report.findings:
        rows.setdefault((item.severity, item.rule), []).append(item)
    for (severity, rule), items in rows.items():
        shown = [f"{item.node}: {item.found}" for item in items[:_SHOWN]]
        shown += [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
        mark = f"[{_COLOURS[severity]}]{severity}[/]"
        table.add_row(mark, rule, escape("\n".join(shown)), escape(items[0].mend))
    console.print(table)


def _summary(item: Engine | Refusal) -> str:
    if isinstance(item, Refusal):
        return f"refused: {item.reason}"
    total = len(item.int8_convolutions) + len(item.float_convolutions)
    return (
        f"{len(item.int8_convolutions)} of {total} convolutions compiled in INT8, {item.kernels} kernels, "
        f"{item.activation_bytes / 1e6:.1f} MB activations, {item.weight_bytes / 1e6:.1f} MB weights"
    )


def _draw(path: Path, compiled: Compiled) -> None:
    engines = {
        f"{target} {precision}": item
        for target, row in compiled.items()
        for precision, item in row.items()
        if isinstance(item, Engine)
    }
    try:
        write_bytes(path, draw_engines(engines).encode())
    except OSError as error:
        raise EdgesegError(
            f"cannot write {path}: {error.strerror}", fix="give --picture a file that can be written"
        ) from error


def _fail(reports: Mapping[str, Report], agreements: list[Agreement]) -> None:
    """Raise `ExportError` on the first thing that will not work."""
    for item in agreements:
        if not item.holds:
            raise ExportError(str(item), expected=f"at least {item.required:.2%}", fix="export the network again")
    errors = [
        (precision, item)
        for precision, report in reports.items()
        for item in report.findings
        if item.severity == "error"
    ]
    if errors:
        precision, first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ExportError(f"TensorRT rejects the {precision} graph: {first.node}: {first.found}{more}", fix=first.mend)
