"""Where the time of a run goes: `edgeseg run --profile` and `edgeseg bench --profile`.

Without it, a run is marked by a function that does nothing, five times a frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from edgeseg.runtime.backends import Backend
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.commands.common import console
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.files import whole_folder, write_bytes, write_json
from edgeseg.runtime.profile.engine import MAX_INFERENCES, PartCost, look_into, sum_parts
from edgeseg.runtime.profile.trace import NO_FRAME, Step, StepCost, Trace, TracedSink
from edgeseg.runtime.sinks import Sink

__all__ = ["NO_FRAME", "Profile", "check_folder"]

_SHOWN = 10
_IDLE = ("wait", "warm-up")


class Profile:
    """Looks into one run: hand `backend`, `watch`'s sinks and `trace.mark` to `run_pipeline`, then `write`."""

    def __init__(self, bundle: Bundle, opened: Backend, *, threads: int | None = None) -> None:
        """Turn on the profiler of `opened`, if it has one. From now on `backend` is to be used, and closed, instead."""
        self.backend = look_into(bundle, opened, threads=threads)
        self.trace = Trace()
        self._bundle = {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256}

    def watch(self, sinks: Sequence[Sink]) -> list[Sink]:
        """Return sinks that pass on to `sinks` and mark what each took."""
        return [TracedSink(sink, self.trace) for sink in sinks]

    def write(self, folder: Path) -> None:
        """Close the backend and write `trace.json` and `profile.json` to `folder`, both or neither; print the top.

        A folder of that name is replaced if it is empty or holds an earlier profile. Raises `EdgesegError` if it
        holds anything else, or cannot be written.
        """
        self.backend.close()
        check_folder(folder)
        parts = sum_parts(self.backend.parts(), skip=self.backend.warm_ups)
        steps = self.trace.costs()
        fields = {
            "schema": "edgeseg/profile/1",
            "bundle": self._bundle,
            "backend": self.backend.name,
            "precision": self.backend.precision,
            "environment": environment(),
            "inferences": len(self.backend.began_ns) - self.backend.warm_ups,
            "steps": [cost.document() for cost in steps],
            self.backend.kind: [cost.document() for cost in parts],
        }
        try:
            with whole_folder(folder) as partial:
                # Without indentation: a trace is for a program to read, and large.
                write_bytes(partial / "trace.json", json.dumps(self.trace.document(self._engine_steps())).encode())
                write_json(partial / "profile.json", fields)
        except OSError as error:
            raise EdgesegError(
                f"cannot write {folder}: {error.strerror}", fix="give --profile a folder that can be written"
            ) from error
        _print_steps(steps)
        _print_parts(parts, self.backend.kind, len(self.backend.began_ns) - self.backend.warm_ups)
        console.print(f"{folder}/trace.json opens in ui.perfetto.dev", markup=False, soft_wrap=True)

    def _engine_steps(self) -> list[Step]:
        """Return the engine's parts by the trace's clock, with the ids of the frames that they belong to."""
        began_ns, warm_ups = self.backend.began_ns, self.backend.warm_ups
        ids = [step.frame_id for step in self.trace.steps if step.name == "inference"]
        ids = [NO_FRAME] * warm_ups + ids[: len(began_ns) - warm_ups]
        found = []
        for part in self.backend.parts():
            if part.inference < len(ids):
                start_ns = began_ns[part.inference] + round(part.offset_ms * 1e6)
                found.append(Step(NO_FRAME, part.name, ids[part.inference], start_ns, start_ns + round(part.ms * 1e6)))
        return found


def check_folder(folder: Path) -> None:
    """Raise `EdgesegError` unless a profile may take the place of `folder`."""
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - {"trace.json", "profile.json"})
        if not others:
            return
        found = f"{folder} holds {others[0]}"
    elif folder.exists():
        found = f"{folder} is a file"
    else:
        return
    raise EdgesegError(found, expected="an empty folder, an earlier profile or none", fix="name another --profile")


def _print_steps(steps: Sequence[StepCost]) -> None:
    table = Table(title=Text("Steps of the pipeline"), title_justify="left")
    for column in ("thread", "step", "times", "median ms", "sum ms"):
        table.add_column(column, justify="left" if column in ("thread", "step") else "right")
    for cost in [cost for cost in steps if cost.step not in _IDLE][:_SHOWN]:
        table.add_row(cost.thread, cost.step, str(cost.count), f"{cost.median_ms:.3f}", f"{cost.total_ms:.0f}")
    console.print(table)


def _print_parts(parts: Sequence[PartCost], kind: str, inferences: int) -> None:
    if not parts:
        console.print("the engine tells nothing of its parts")
        return
    table = Table(title=Text(f"The engine's slowest {kind}"), title_justify="left")
    table.add_column("name", overflow="fold")
    table.add_column("type")
    for column in ("median ms", "share"):
        table.add_column(column, justify="right")
    for cost in parts[:_SHOWN]:
        table.add_row(Text(cost.name), cost.operator, f"{cost.median_ms:.3f}", f"{cost.share:.1%}")
    console.print(table)
    most = ", the first" if inferences >= MAX_INFERENCES - 12 else ""
    console.print(f"{len(parts)} {kind} over {inferences} inferences{most}, warm-up left out", markup=False)
