"""A camera that is not there yet, for runs that must start without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame
from edgeseg.runtime.sources.url import PIPELINE_PREFIX, scheme_of

_LIVE_SCHEMES = ("rtsp", "rtsps", "udp", "csi")


class AwaitedSource:
    """Stands in for a camera until its supervisor can connect it."""

    size_hw = (0, 0)
    fps = None
    live = True
    clock = "arrival"

    def __init__(self, reason: SourceError) -> None:
        self._reason = reason

    def read(self) -> Frame | None:
        """Raise why the camera could not be opened."""
        raise self._reason

    def close(self) -> None:
        pass


def may_appear(url: str) -> bool:
    """Return whether `url` names something live that can be away now and there later: a camera or a stream."""
    return _is_device(url) or url.startswith(PIPELINE_PREFIX) or scheme_of(url) in _LIVE_SCHEMES


def is_present(url: str) -> bool | None:
    """Return whether the camera or file that `url` names is there; None where only opening it would tell."""
    if _is_device(url):
        place = url.partition("?")[0]
        return Path(f"/dev/video{int(place)}" if place.isdigit() else place).exists()
    if scheme_of(url) is None and not url.startswith(PIPELINE_PREFIX):
        return Path(url).exists()
    return True if scheme_of(url) == "synthetic" else None


def any_present(urls: Sequence[str]) -> bool | None:
    """Return whether one of `urls` is there; None where nobody can tell."""
    found = [is_present(url) for url in urls]
    return True if True in found else None if None in found else False


def _is_device(url: str) -> bool:
    return url.startswith("/dev/") or url.partition("?")[0].isdigit()
