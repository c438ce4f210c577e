"""Options that several subcommands have, word for word the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgeseg.runtime.backends import BACKENDS
from edgeseg.runtime.objective import parse_objective

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

backend_option = click.option(
    "--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True, help="What runs it."
)

threads_option = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads for inference; default one per core."
)


def objectives_option(whose: str) -> Callable[[_Decorated], _Decorated]:
    """Add `--slo`, as parameter `objectives: tuple[Objective, ...]`; `whose` begins its help."""
    return click.option(
        "--slo",
        "objectives",
        multiple=True,
        metavar="O",
        callback=lambda _context, _option, texts: tuple(parse_objective(text) for text in texts),
        help=f"{whose}: age_p99=100ms, fps>=20 or dropped<=5%. May be repeated.",
    )
