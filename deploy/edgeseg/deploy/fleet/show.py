"""How far each device is, for a person: a line that moves at a terminal, a line per stage elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from edgeseg.deploy.push import ENDINGS, GOOD, Outcome
from edgeseg.runtime.commands.common import console


class Watcher:
    """Hears of every device."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, tuple[str, str]] = {}

    def __call__(self, device: str, stage: str, words: str = "", *, done: int = 0, total: int = 0) -> None:
        """Show it. Away from a terminal only what is new is written."""
        if self._bars.disable:
            told = (stage, words if stage != "on the device" else "")
            if self._stages.get(device) != told:
                self._stages[device] = told
                console.print(f"{device}: {' '.join(filter(None, (stage, words)))}", soft_wrap=True, markup=False)
            return
        if stage in ENDINGS:
            if device in self._tasks:
                self._bars.remove_task(self._tasks.pop(device))
            return
        if device not in self._tasks:
            self._tasks[device] = self._bars.add_task(device, words="", stage="")
        amount = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else words
        self._bars.update(
            self._tasks[device], stage=stage, words=amount, completed=done, total=total or None, refresh=False
        )


@contextmanager
def watching() -> Iterator[Watcher]:
    """Yield what a rollout tells how far it is; its lines are gone at the end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[stage]}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield Watcher(bars)


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print what became of each device, and below it why."""
    rows = [(item.device, item.ending, f"{item.sent_bytes / 1e6:.1f}") for item in outcomes]
    _print_table(("device", "outcome", "MB sent"), rows)
    _print_words({item.device: item.detail for item in outcomes if item.ending not in GOOD})


def print_status(answers: Mapping[str, dict[str, Any]], pins: Mapping[str, int | None]) -> None:
    """Print what each device runs. An answer is the agent's status, or has an `error`."""
    rows = [
        (name, _title(answer.get("current")), str(pins[name] or ""), _state(answer), _health(answer))
        for name, answer in answers.items()
    ]
    _print_table(("device", "runs", "pin", "state", "frames"), rows)
    _print_words({name: str(answer.get("error") or answer["last"]) for name, answer in answers.items()})


def _state(answer: Mapping[str, Any]) -> str:
    if "error" in answer:
        return "unreachable"
    current = answer.get("current", {})
    if not current:
        return "empty"
    if not current["whole"]:
        return "DAMAGED"
    return "on trial" if answer["on_trial"] else "permanent"


def _title(current: Mapping[str, Any] | None) -> str:
    return f"{current.get('name', '?')} {current.get('version', '?')}" if current else "–"


def _health(answer: Mapping[str, Any]) -> str:
    if "error" in answer:
        return "–"
    health = answer.get("health")
    if health is None:
        return "no word"
    age_ms = health.get("frame_age_ms")
    age = "" if age_ms is None else f", {age_ms:.0f} ms old"
    if not health["alive"]:
        return "a stage hangs"
    return f"flowing{age}" if health["flowing"] else "none"


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_words(words: Mapping[str, str]) -> None:
    for name, text in words.items():
        if text:
            console.print(f"{name}: {text}", soft_wrap=True, markup=False)
