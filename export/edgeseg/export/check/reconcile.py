"""Where the compiler was asked, its word counts: the rules are then only the explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgeseg.export.check.compile import Refusal
from edgeseg.export.check.convolutions import CONVOLUTIONS
from edgeseg.export.check.findings import FLOAT_RULES, Finding, Report, Severity, Verdict, finding, sorted_findings
from edgeseg.export.check.plan import Engine


def reconcile(report: Report, compiled: Mapping[str, Engine | Refusal]) -> Report:
    """Return `report` as the compiler's outcome for each target corrects it.

    A refusal adds an error. What compiled everywhere is no error: such findings become warnings. A convolution that
    the rules hold for INT8 and that came out in float gets a finding; one that they hold for float and that came out in
    INT8 on every target keeps its findings as advice.
    """
    refusals = [(target, item) for target, item in compiled.items() if isinstance(item, Refusal)]
    engines = {target: item for target, item in compiled.items() if isinstance(item, Engine)}
    added = [finding("compiler-rejects", "model", f"{target}: {item.reason}") for target, item in refusals]
    if refusals or not engines:
        return replace(report, findings=sorted_findings([*report.findings, *added]))
    in_int8 = set.intersection(*(set(engine.int8_convolutions) for engine in engines.values()))
    verdicts = []
    for verdict in report.convolutions:
        judged, new = _judge(verdict, engines, in_int8)
        verdicts.append(judged)
        added += new
    kept = [_weigh(item, in_int8) for item in report.findings]
    return Report(findings=sorted_findings([*kept, *added]), convolutions=tuple(verdicts))


def _judge(verdict: Verdict, engines: Mapping[str, Engine], in_int8: set[str]) -> tuple[Verdict, list[Finding]]:
    if verdict.op not in CONVOLUTIONS:
        return verdict, []
    if verdict.node in in_int8:
        return (verdict, []) if verdict.int8 else (replace(verdict, int8=True), [])
    where = [target for target, engine in engines.items() if verdict.node in engine.float_convolutions]
    if not where or not verdict.int8:
        return verdict, []
    rules = (*verdict.rules, "compiled-in-float")
    judged = replace(verdict, int8=False, fused=False, rules=rules)
    return judged, [finding("compiled-in-float", verdict.node, f"{verdict.op} in float on {', '.join(where)}")]


def _weigh(item: Finding, in_int8: set[str]) -> Finding:
    severity: Severity = item.severity
    if severity == "error":
        severity = "warning"
    elif item.rule in FLOAT_RULES and item.node in in_int8:
        severity = "advice"
    return replace(item, severity=severity)
