"""`edgeseg deploy push`, `status`, `rollback` and `logs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.fleet.errors import FleetError
from edgeseg.deploy.fleet.link import Link
from edgeseg.deploy.fleet.offer import read_offer
from edgeseg.deploy.fleet.rollout import Failures, Rollout, ask_all, roll_out
from edgeseg.deploy.fleet.show import print_outcomes, print_status, watching
from edgeseg.deploy.inventory import Device, load_inventory, select
from edgeseg.deploy.push import GOOD, Patience
from edgeseg.runtime.commands.common import console, json_option, write_document

_FILE = click.Path(dir_okay=False, path_type=Path)
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def _failure_limit(_: click.Context, __: click.Parameter, text: str) -> Failures:
    try:
        limit = Failures(share=float(text[:-1]) / 100) if text.endswith("%") else Failures(count=int(text))
    except ValueError:
        limit = Failures(count=-1)
    if limit.count < 0 or not 0 <= (limit.share or 0) <= 1:
        raise click.BadParameter(f"{text!r} is neither a number of devices nor a share such as 10%")
    return limit


def _fleet_options(command: _Decorated) -> _Decorated:
    for option in (
        click.option("--limit", multiple=True, metavar="NAME", help="Only this device; `gate-*` works; repeatable."),
        click.option("--group", multiple=True, help="Only devices of this group; repeatable."),
        click.option("--inventory", type=_FILE, required=True, metavar="FLEET.toml", help="The devices."),
    ):
        command = option(command)
    return command


@click.command(epilog="Example: edgeseg deploy push yard-7.release --inventory fleet.toml --max-failures 10%")
@click.argument("release", type=_FILE)
@_fleet_options
@click.option("--canaries", metavar="NAMES", help="Comma between them, or `none`. Default: the inventory's.")
@click.option(
    "--max-failures",
    callback=_failure_limit,
    default="0",
    show_default=True,
    metavar="N|N%",
    help="More failures than this, or this share, stop the rollout.",
)
@click.option("--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Devices at a time.")
@click.option(
    "--retry-for", type=click.FloatRange(min=0), default=300, show_default=True, help="Seconds for one out of reach."
)
@click.option("--wait", type=click.FloatRange(min=0), default=7200, show_default=True, help="Seconds for an outcome.")
@json_option
def push(
    *,
    release: Path,
    inventory: Path,
    group: tuple[str, ...],
    limit: tuple[str, ...],
    canaries: str | None,
    max_failures: Failures,
    parallel: int,
    retry_for: float,
    wait: float,
    json_path: Path | None,
) -> None:
    """Bring a release to devices, canaries first, and wait for what each makes of it."""
    devices = select(load_inventory(inventory), groups=group, limit=limit)
    offer = read_offer(release)
    rules = Rollout(
        max_failures=max_failures, parallel=parallel, patience=Patience(retry_s=retry_for, wait_s=wait)
    )  # fmt: skip
    with watching() as tell:
        report = roll_out(devices, offer, rules, tell, canaries=_canaries(devices, canaries))
    print_outcomes(report.outcomes)
    write_document(
        json_path,
        "push",
        release={"name": offer.descriptor.name, "version": offer.descriptor.version, "digest": offer.descriptor.digest},
        **({"aborted": report.aborted} if report.aborted else {}),
        devices=[asdict(outcome) for outcome in report.outcomes],
    )
    endings = [outcome.ending for outcome in report.outcomes]
    good, pinned = sum(ending in GOOD for ending in endings), endings.count("pinned")
    if report.aborted:
        raise DeployError(f"stopped: {report.aborted}", fix="see the table; edgeseg deploy logs has more")
    if good + pinned < len(endings):
        raise DeployError(f"{len(endings) - good - pinned} of {len(endings)} devices do not have it", fix="push again")
    if not good:
        raise DeployError(f"every device is pinned to another version than {offer.descriptor.version}")
    done = "nothing was to be done" if set(endings) <= {"unchanged", "pinned"} else f"{offer.descriptor} is permanent"
    console.print(f"{done} on {good} of {len(endings)} devices", soft_wrap=True)


def _canaries(devices: Sequence[Device], given: str | None) -> list[str]:
    names = [device.name for device in devices]
    if given is None:
        return [device.name for device in devices if device.canary]
    chosen = [] if given == "none" else [name.strip() for name in given.split(",")]
    for name in chosen:
        if name not in names:
            raise DeployError(f"canary {name!r} is not among the devices", expected=", ".join(names[:8]))
    return chosen


@click.command(epilog="Example: edgeseg deploy status --inventory fleet.toml --json status.json")
@_fleet_options
@json_option
def status(*, inventory: Path, group: tuple[str, ...], limit: tuple[str, ...], json_path: Path | None) -> None:
    """Show what each device runs, read and hashed there now. A device that is not reached fails nothing."""
    devices = select(load_inventory(inventory), groups=group, limit=limit)
    answers: dict[str, dict[str, Any]] = {
        name: {"error": str(answer)} if isinstance(answer, FleetError) else json.loads(answer)
        for name, answer in ask_all(devices, _read_status).items()
    }
    print_status(answers, {device.name: device.pin for device in devices})
    pins = {device.name: {} if device.pin is None else {"pin": device.pin} for device in devices}
    write_document(
        json_path,
        "fleet-status",
        devices=[
            {"device": name, "reachable": "error" not in answer, **pins[name], **_without_schema(answer)}
            for name, answer in answers.items()
        ],
    )


@click.command(epilog="Example: edgeseg deploy rollback --inventory fleet.toml --limit gate-1")
@_fleet_options
@click.option("--all", "everyone", is_flag=True, help="All devices of the inventory.")
def rollback(*, inventory: Path, group: tuple[str, ...], limit: tuple[str, ...], everyone: bool) -> None:
    """End the trial on these devices, or put the version before on trial. A device's pin is not left."""
    if not (group or limit or everyone):
        raise DeployError("no devices were named", expected="--limit, --group or --all")
    _ask_and_print(inventory, group, limit, _roll_back)


@click.command(epilog="Example: edgeseg deploy logs --inventory fleet.toml --limit gate-1 --lines 50")
@_fleet_options
@click.option("--lines", type=click.IntRange(min=1), default=20, show_default=True, help="The last so many.")
def logs(*, inventory: Path, group: tuple[str, ...], limit: tuple[str, ...], lines: int) -> None:
    """Show the last log lines of the service and the agent."""
    _ask_and_print(inventory, group, limit, partial(_read_logs, lines=lines))


# What a device is asked, in a process of its own.


def _read_status(link: Link) -> str:
    return link.agent("status")


def _read_logs(link: Link, lines: int) -> str:
    return link.shell(tuple(word.replace("{lines}", str(lines)) for word in link.device.logs))


def _roll_back(link: Link) -> str:
    pin = link.device.pin
    if pin is not None:
        status = json.loads(link.agent("status"))
        if not status["on_trial"] or status.get("good", {}).get("version") != pin:
            raise FleetError(
                f"pinned to version {pin} in the inventory: not rolled back", fix="change its pin, or push that version"
            )
    return link.agent("rollback")


def _ask_and_print(inventory: Path, group: Sequence[str], limit: Sequence[str], ask: Callable[[Link], str]) -> None:
    devices = select(load_inventory(inventory), groups=group, limit=limit)
    answers = ask_all(devices, ask)
    for name, answer in answers.items():
        for line in str(answer).splitlines():
            console.print(f"{name}: {line}", soft_wrap=True, markup=False)
    failed = [name for name, answer in answers.items() if isinstance(answer, FleetError)]
    if failed:
        raise DeployError(f"{len(failed)} of {len(answers)} devices did not do it: {', '.join(failed[:8])}")


def _without_schema(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "schema"}


COMMANDS = (push, status, rollback, logs)
