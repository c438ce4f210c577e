"""Flicker of a network's masks on a video: a figure that needs no labels, and that no photo shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeseg.runtime.contract import Fitter
from edgeseg.runtime.evaluate import Predictor
from edgeseg.runtime.frame import Result
from edgeseg.runtime.health.monitor import HealthMonitor
from edgeseg.runtime.sources.file import FileSource

_USUAL_FPS = 25.0


def measure_flicker(network: Predictor, video: Path, *, advance: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Run `network` over every frame of `video` and judge it as `HealthMonitor` judges a camera.

    Returns `video`, `frames`, and in percent of the pixels `changed` and `flicker`, which short videos lack. Time is
    the video's own, so that a slow engine is judged like a fast one. `advance` is called after each frame. Raises
    `SourceError` if it is no video.
    """
    monitor, frames = HealthMonitor(network.contract), 0
    fitter: Fitter | None = None
    with closing(FileSource(video)) as source:
        period_ns = 1e9 / (source.fps or _USUAL_FPS)
        while (frame := source.read()) is not None:
            size_hw = (frame.image_bgr.shape[0], frame.image_bgr.shape[1])
            if fitter is None or fitter.source_hw != size_hw:
                fitter = Fitter(network.contract, size_hw)
            mask = fitter.unfit(network.infer(fitter.fit(frame.image_bgr))[0])
            monitor.see(
                Result(frame=replace(frame, captured_ns=round(frame.id * period_ns)), mask=mask, inference_ms=0.0)
            )
            frames += 1
            advance()
    health = monitor.health()
    figures = {} if health is None else health.document()
    return {
        "video": video.name,
        "frames": frames,
        **{name: figures[name] for name in ("changed", "flicker") if name in figures},
    }
