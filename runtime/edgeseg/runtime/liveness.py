"""Signs of life for the device agent: one JSON line per stage and second, to the descriptor in EDGESEG_LIVENESS.

    {"stage": "capture", "state": "flowing" or "reopening", "present": true or false, "frames": 812}
    {"stage": "inference", "golden": 1.0}
    {"stage": "sinks", "frame_age_ms": 41.2}

A stage that hangs says nothing, and that is the message. A camera that is away is no hang: it is being reopened.
`present` is left out where nobody can tell, `golden` where the bundle requires nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from edgeseg.runtime.backends import Backend
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.cameras import Pulse
from edgeseg.runtime.first_use import least_agreement
from edgeseg.runtime.summary import RunRecorder

_log = logging.getLogger(__name__)

VARIABLE = "EDGESEG_LIVENESS"
HANGS_S = 10.0
"""A stage that has been at one thing for longer is taken to hang."""


class Liveness:
    """Speaks for each stage that is alive; called once a second. Never blocks, and ends nothing if nobody listens."""

    def __init__(self, descriptor: int, *, present: Callable[[], bool | None], golden: float | None) -> None:
        """Speak to `descriptor`. `present` tells whether a camera is there, None if nobody knows.

        Raises `OSError` if `descriptor` is not open.
        """
        os.set_blocking(descriptor, False)
        self._descriptor: int | None = descriptor
        self._present, self._golden = present, golden

    def __call__(self, pulse: Pulse, recorder: RunRecorder) -> None:
        """Write a line for each stage that is alive, all or none."""
        if self._descriptor is None:
            return
        age_ms = recorder.frame_age_p95_ms()
        lines = describe_stages(pulse, present=self._present(), golden=self._golden, frame_age_ms=age_ms)
        try:
            os.write(self._descriptor, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())
        except BlockingIOError:
            pass  # the agent is slow, and only the newest word counts
        except OSError as error:
            _log.warning("nobody listens at %s any more: %s", VARIABLE, error)
            self._descriptor = None


def describe_stages(
    pulse: Pulse, *, present: bool | None, golden: float | None, frame_age_ms: float | None
) -> list[dict[str, Any]]:
    """Return what each stage that is alive says; facts that are None are left out."""
    away = bool(pulse.reopening) and all(pulse.reopening)
    captures = zip(pulse.capture_s, pulse.reopening, strict=True)
    said: list[tuple[bool, dict[str, Any]]] = [
        (
            all(reopening or took_s < HANGS_S for took_s, reopening in captures),
            {
                "stage": "capture",
                "state": "reopening" if away else "flowing",
                "present": present,
                "frames": pulse.frames_read,
            },
        ),
        (pulse.inference_s < HANGS_S, {"stage": "inference", "golden": golden}),
        (all(took_s < HANGS_S for took_s in pulse.sinks_s), {"stage": "sinks", "frame_age_ms": frame_age_ms}),
    ]
    return [{key: value for key, value in words.items() if value is not None} for alive, words in said if alive]


def open_liveness(
    bundle: Bundle,
    engine: Backend,
    present: Callable[[], bool | None],
    environment: Mapping[str, str] = os.environ,
) -> Liveness | None:
    """Return what speaks to the agent that started this process; None if none did.

    Runs the golden frames through `engine` once. A variable that names no open descriptor is told and ignored.
    """
    word = environment.get(VARIABLE)
    if word is None:
        return None
    try:
        return Liveness(int(word), present=present, golden=kept_promise(bundle, engine))
    except (ValueError, OSError) as error:
        _log.warning("%s=%s names no open descriptor (%s): nobody is told how this run is", VARIABLE, word, error)
        return None


def kept_promise(bundle: Bundle, engine: Backend) -> float | None:
    """Return how much of the agreement that the manifest requires the golden frames reach here, 1 at most.

    None if it requires nothing of this precision. INT8 may be allowed to differ in some pixels, so the bare agreement
    would not tell a sound engine from a wrong one.
    """
    required = bundle.manifest.golden.agreement.get(engine.precision)  # type: ignore[call-overload]
    return None if not required else round(min(1.0, least_agreement(bundle, engine) / required), 6)
