"""Overlays on the screen, where there is one."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import cv2

from edgeseg.runtime.frame import Result
from edgeseg.runtime.overlay import RateMeter, draw_overlay
from edgeseg.runtime.sinks.feed import Feed

_log = logging.getLogger(__name__)

TITLE = "edgeseg"


def missing_display(environment: Mapping[str, str] = os.environ) -> str:
    """Return why no window can be shown; empty if one may be.

    Asked before OpenCV is: without a display its Qt windows end the whole process.
    """
    if not any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        return "there is no display"
    if any("GUI:" in line and "NONE" in line for line in cv2.getBuildInformation().splitlines()):
        return "this OpenCV was built without windows"
    return ""


class WindowSink:
    """Shows each overlay in a window. Where there can be none, it says so once and the run goes on without."""

    def __init__(self, spec: str, place: str, feed: Feed) -> None:
        self.spec, self._contract = spec, feed.contract
        self._rate = RateMeter()
        self._shown = False
        self._blind = bool(reason := missing_display())
        if reason:
            self._say(reason)

    def write(self, result: Result) -> None:
        """Show `result`. Windows belong to the thread that opened them, so this is where it is opened."""
        if self._blind:
            return
        overlay = draw_overlay(result, self._contract, fps=self._rate.tick(result.masked_ns))
        try:
            cv2.imshow(TITLE, overlay)
            cv2.waitKey(1)
            self._shown = True
        except cv2.error as error:
            self._blind = True
            self._say(" ".join(str(error).split()))

    def close(self) -> None:
        if self._shown:
            self._shown = False
            cv2.destroyWindow(TITLE)

    def _say(self, reason: str) -> None:
        _log.warning("no window is shown: %s; the run goes on, use video:FILE or images:DIR to see it", reason)
