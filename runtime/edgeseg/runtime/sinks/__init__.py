"""Where results go: `KIND:WHERE`, one small class per kind."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.frame import Result
from edgeseg.runtime.sinks.feed import Feed


class Sink(Protocol):
    """Takes every result of a run, in order, from one thread."""

    spec: str
    """What the user asked for, for messages."""

    def write(self, result: Result) -> None:
        """Take one result, which is shared with other sinks and must not be written to. Raises `SinkError`."""

    def close(self) -> None:
        """Finish what was written; safe to call twice. Raises `SinkError`."""


class NullSink:
    """Takes results and keeps nothing."""

    def __init__(self, spec: str = "null", place: str = "", feed: Feed | None = None) -> None:
        self.spec = spec

    def write(self, result: Result) -> None:
        pass

    def close(self) -> None:
        pass


SINKS = {
    "video": ("edgeseg.runtime.sinks.video:VideoSink", "FILE"),
    "images": ("edgeseg.runtime.sinks.images:ImagesSink", "DIR"),
    "masks": ("edgeseg.runtime.sinks.images:MasksSink", "DIR"),
    "jsonl": ("edgeseg.runtime.sinks.jsonl:JsonlSink", "FILE"),
    "window": ("edgeseg.runtime.sinks.window:WindowSink", ""),
    "null": ("edgeseg.runtime.sinks:NullSink", ""),
}
"""Kind -> where its class is, and what follows the colon."""


def open_sink(spec: str, *, contract: Contract, fps: float | None, live: bool = False) -> Sink:
    """Open the sink that `spec` names: `video:FILE`, `images:DIR`, `masks:DIR`, `jsonl:FILE`, `window` or `null`.

    `fps` is the source's nominal rate, None where it has none, and `live` whether the source is. Raises `SinkError` for
    an unknown kind, a missing or needless place, and a place that cannot be written to.
    """
    kind, _, place = spec.partition(":")
    usage = [f"{name}:{what}" if what else name for name, (_, what) in SINKS.items()]
    if kind not in SINKS:
        raise SinkError(f"sink {spec!r} is of no known kind", expected="one of " + ", ".join(usage))
    target, what = SINKS[kind]
    if bool(place) != bool(what):
        found = f"sink {spec!r} names no {what}" if what else f"sink {spec!r} takes nothing after {kind!r}"
        raise SinkError(found, expected=f"{kind}:{what}" if what else kind)
    module, _, name = target.partition(":")
    factory: Callable[..., Sink] = getattr(import_module(module), name)
    return factory(spec, place, Feed(contract=contract, fps=fps, live=live))
