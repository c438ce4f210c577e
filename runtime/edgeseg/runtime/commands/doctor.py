"""`edgeseg doctor`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.doctor import examine, is_ready
from edgeseg.runtime.doctor.machine import Finding
from edgeseg.runtime.environment import environment

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


@click.command(epilog="Example: edgeseg doctor --json doctor.json")
@json_option
@click.pass_context
def doctor(context: click.Context, json_path: Path | None) -> None:
    """Tell what is missing on this machine, and the fix for each.

    Exit status 0 when `edgeseg run` can work here, 1 when it cannot.
    """
    findings = examine()
    ready = is_ready(findings)
    write_document(
        json_path,
        "doctor",
        ready=ready,
        findings=[finding.document() for finding in findings],
        environment=environment(),
    )
    console.print(_table(findings))
    console.print(_verdict(findings), soft_wrap=True)
    context.exit(0 if ready else 1)


def _table(findings: list[Finding]) -> Table:
    table = Table("", "what", "found")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    table.columns[2].overflow = "fold"
    for finding in findings:
        found = Text(finding.found)
        if finding.fix:
            found.append(f"\nfix: {finding.fix}", style="bold")
        table.add_row(Text(finding.level, style=_COLOURS[finding.level]), Text(finding.check), found)
    return table


def _verdict(findings: list[Finding]) -> str:
    broken = [finding.check for finding in findings if finding.level == "error"]
    if broken:
        return f"edgeseg run cannot work here before this is mended: {', '.join(broken)}"
    warnings = sum(finding.level == "warning" for finding in findings)
    rest = f", with {warnings} warning{'s' * (warnings != 1)}" if warnings else ""
    return f"edgeseg run can work here{rest}"
