"""From what the user names to a run's cameras: sources that survive faults, and sinks for each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import PurePath

from edgeseg.runtime.awaited import AwaitedSource, may_appear
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import SinkError, SourceError
from edgeseg.runtime.frame import WHITE_LEVEL
from edgeseg.runtime.mosaic import MosaicSink
from edgeseg.runtime.pipeline import Camera
from edgeseg.runtime.sinks import SINKS, Sink, open_sink
from edgeseg.runtime.sources import Source, open_source, redact
from edgeseg.runtime.sources.inject import FaultInjector, parse_faults
from edgeseg.runtime.sources.supervised import supervise

_log = logging.getLogger(__name__)

SHARED = ("window",)
"""Sinks that show all cameras in one picture."""
PLACEHOLDER = "{camera}"
"""What stands for a camera's name in a sink."""


def open_supervised(url: str, fault: str | None = None, *, white_level: int = WHITE_LEVEL) -> Source:
    """Open `url` so that a live source's faults are survived, those that `fault` orders among them."""
    opener: Callable[[], Source] = partial(open_source, url, white_level=white_level)
    if fault is not None:
        opener = FaultInjector(opener, parse_faults(fault)).open
    camera = opener()
    if fault is not None and not camera.live:
        camera.close()
        raise SourceError(f"--fault on {redact(url)}, which is not live", fix="use a camera, a stream or synthetic://")
    return supervise(camera, opener, name=redact(url))


def open_sources(
    urls: Sequence[str], fault: str | None = None, *, patient: bool = False, white_level: int = WHITE_LEVEL
) -> list[Source]:
    """Open every one of `urls`, with faults injected into the first if `fault` orders some.

    Beside another that can be opened, or if `patient`, a camera that is away is awaited. `white_level` is the
    contract's. Raises the first `SourceError` of any other, or if there is none to go on with; nothing stays open then.
    """
    with ExitStack() as stack:
        opened: list[Source | SourceError] = []
        for index, url in enumerate(urls):
            try:
                source = open_supervised(url, fault if index == 0 else None, white_level=white_level)
                stack.callback(source.close)
                opened.append(source)
            except SourceError as error:
                if not may_appear(url) or not (patient or len(urls) > 1):
                    raise
                opened.append(error)
        errors = [one for one in opened if isinstance(one, SourceError)]
        if len(errors) == len(urls) and not patient:
            raise errors[0]
        stack.pop_all()
    return [_await(one, url) if isinstance(one, SourceError) else one for one, url in zip(opened, urls, strict=True)]


def open_cameras(
    urls: Sequence[str], sources: Sequence[Source], specs: Sequence[str], contract: Contract, stack: ExitStack
) -> tuple[list[Camera], list[Sink]]:
    """Open the sinks `specs` for each of `sources`, and return the cameras and the sinks that all of them share.

    What is opened is closed by `stack`. With several cameras the window is shared, and shows them side by side.
    """
    several = len(sources) > 1
    own = [spec for spec in specs if not (several and spec in SHARED)]
    shared: list[Sink] = []
    for spec in specs:
        if spec not in own:
            sink = open_sink(spec, contract=contract, fps=None, live=True)
            stack.callback(sink.close)
            shared.append(MosaicSink(sink, len(sources), contract))
    cameras = []
    for index, (url, source) in enumerate(zip(urls, sources, strict=True)):
        name = f"camera-{index + 1}"
        sinks = []
        for spec in own:
            place = place_for(spec, name, several=several)
            sinks.append(open_sink(place, contract=contract, fps=source.fps, live=source.live))
            stack.callback(sinks[-1].close)
        cameras.append(Camera(source=source, sinks=sinks, name=name, title=redact(url)))
    return cameras, shared


def place_for(spec: str, camera: str, *, several: bool) -> str:
    """Return sink `spec` for one camera: its name in place of `{camera}`, else, of `several`, a place of its own.

    A folder gets a folder per camera, a file one per camera beside it: `masks:out` becomes `masks:out/camera-1`, and
    `video:out.mp4` becomes `video:out-camera-1.mp4`.
    """
    kind, _, place = spec.partition(":")
    if PLACEHOLDER in place:
        return f"{kind}:{place.replace(PLACEHOLDER, camera)}"
    if not (several and place and kind in SINKS):
        return spec
    path = PurePath(place)
    if SINKS[kind][1] == "DIR":
        return f"{kind}:{path / camera}"
    if not path.name:
        raise SinkError(f"sink {spec!r} names no file", expected=f"{kind}:FILE")
    return f"{kind}:{path.with_name(f'{path.stem}-{camera}{path.suffix}')}"


def _await(error: SourceError, url: str) -> Source:
    name = redact(url)
    _log.warning("%s is away and will be connected when it comes: %s", name, error)
    return supervise(AwaitedSource(error), partial(open_source, url), name=name)
