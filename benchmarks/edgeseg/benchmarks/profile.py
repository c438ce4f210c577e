"""A look into what `edgeseg bench` has just measured, by a run of its own: a profiler slows what it looks into."""

from __future__ import annotations

from pathlib import Path

from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.pipeline import run_pipeline
from edgeseg.runtime.profile import Profile
from edgeseg.runtime.sinks import NullSink
from edgeseg.runtime.sources import open_source

FRAMES = 60
"""As many of the source's frames are looked into."""


def profile_source(
    given: str, folder: Path, *, backend: str, precision: str, threads: int | None, source: str, frames: int = FRAMES
) -> None:
    """Run the pipeline over `frames` of `source` with profilers on, write the profile to `folder` and print its top.

    Raises `EdgesegError` for what goes wrong.
    """
    with open_bundle(given) as bundle:
        opened = open_backend(bundle, backend=backend, precision=precision, threads=threads)
        profile = Profile(bundle, opened, threads=threads)
        try:
            sinks = profile.watch([NullSink()])
            run_pipeline(
                open_source(source),
                profile.backend,
                bundle.contract,
                sinks,
                max_frames=frames,
                mark=profile.trace.mark,
            )
        finally:
            profile.backend.close()
        profile.write(folder)
