"""What every subcommand shares: `--json`, the terminal and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.files import write_json

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

console = Console(highlight=False)
"""Text for a person, on standard output."""


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self, n: int = 1) -> None: ...


def json_option(command: _Decorated) -> _Decorated:
    """Add `--json FILE` to a click command, as parameter `json_path: Path | None`."""
    option = click.option(
        "--json",
        "json_path",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Also write the figures to FILE as one JSON document.",
    )
    return option(command)


def write_document(path: Path | None, kind: str, **fields: Any) -> None:
    """Write `{"schema": "edgeseg/<kind>/1", **fields}` to `path`, whole or not at all; do nothing for None.

    A figure that is absent is left out by the caller: NaN raises `ValueError`. A path that cannot be written
    raises `EdgesegError`.
    """
    if path is None:
        return
    try:
        write_json(path, {"schema": f"edgeseg/{kind}/1", **fields})
    except OSError as error:
        raise EdgesegError(
            f"cannot write {path}: {error.strerror}",
            fix="give --json a file in a folder that exists and can be written",
        ) from error


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Advance]:
    """Show a bar on standard error while the block runs; yields `advance(n=1)`.

    The bar is removed at the end, and nothing at all is written where standard error is not a terminal.
    `total` None is for work whose length is not known.
    """
    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task(description, total=total)

        def advance(n: int = 1) -> None:
            bar.advance(task, n)

        yield advance
