"""Faults on order, to see what a run makes of them: `--fault stall:5@10,resize@30`.

The injector stands between the supervisor and the camera and keeps its own log of what it did, which the supervisor
cannot read: comparing the two is the test.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame, Image
from edgeseg.runtime.sources import Source
from edgeseg.runtime.sources.faults import KINDS, CorruptFrameError

LASTING = ("stall", "freeze", "disconnect", "slow")
"""Kinds that take a duration."""

_ORDER = re.compile(r"([a-z]+)(?::([0-9.]+))?@([0-9]+)")
_FORM = "kind[:seconds]@frame,... such as stall:5@10,freeze:2@20,resize@30,corrupt@40,disconnect:2@50,slow:3@60"
SLOWED = 3
"""Periods that a slow camera waits before each frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultOrder:
    """One fault to come."""

    kind: str
    frame: int
    """The source's number of the first frame that it touches."""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectedFault:
    """One fault as it happened."""

    kind: str
    frame: int
    ended_ns: int
    """When the camera is well again, by the injector's clock."""


def parse_faults(text: str) -> tuple[FaultOrder, ...]:
    """Read `kind[:seconds]@frame,...` into orders by frame. Raises `SourceError` for anything else."""
    orders: dict[int, FaultOrder] = {}
    for part in text.split(","):
        match = _ORDER.fullmatch(part.strip())
        if not match:
            raise SourceError(f"fault {part.strip()!r} cannot be read", expected=_FORM)
        kind, seconds, frame = match.groups()
        if kind not in KINDS:
            raise SourceError(f"fault {part.strip()!r} is of no known kind", expected=f"one of {', '.join(KINDS)}")
        if (kind in LASTING) != (seconds is not None):
            found = f"fault {part.strip()!r} has no duration" if kind in LASTING else f"{kind} takes no duration"
            raise SourceError(found, expected=f"{kind}:SECONDS@{frame}" if kind in LASTING else f"{kind}@{frame}")
        try:
            order = FaultOrder(kind=kind, frame=int(frame), seconds=float(seconds or 0))
        except ValueError:
            raise SourceError(f"fault {part.strip()!r} has duration {seconds!r}", expected="seconds") from None
        if order.frame < 1 or (seconds is not None and not 0 < order.seconds <= 3600):
            raise SourceError(f"fault {part.strip()!r}", expected="a frame from 1, and from 0 to 3600 seconds")
        if order.frame in orders:
            raise SourceError(f"two faults at frame {order.frame}", expected="a frame for each")
        orders[order.frame] = order
    return tuple(orders[frame] for frame in sorted(orders))


class FaultInjector:
    """A camera that fails on order. `open` opens it, and again after each loss; its frames are numbered through.

    `wait` blocks for some seconds, by the clock that `now_ns` tells.
    """

    def __init__(
        self,
        opener: Callable[[], Source],
        orders: Sequence[FaultOrder],
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._opener, self._now_ns, self._wait = opener, now_ns, wait
        self._orders = deque(orders)
        self.truth: list[InjectedFault] = []
        """What was done so far."""
        self._next_id = 0
        self._gone_until_ns = self._held_until_ns = self._slow_until_ns = 0
        self._held: Image | None = None
        self._last: Image | None = None
        self._halved = False

    def open(self) -> Source:
        """Open the camera. Raises `SourceError` while it is gone."""
        if self._now_ns() < self._gone_until_ns:
            raise SourceError("the camera is gone, as ordered")
        return _Faulty(self, self._opener(), self._next_id)

    def read(self, faulty: _Faulty) -> Frame | None:
        """Read for one opened camera, and do what is due."""
        order = self._take(self._next_id, ("stall", "disconnect", "slow"))
        if order is not None and order.kind == "slow":
            self._slow_until_ns = self._note(order, self._next_id)
        elif order is not None:
            self._gone_until_ns = self._note(order, self._next_id)
            if order.kind == "disconnect":
                raise SourceError("the camera went away, as ordered")
            # Deaf to `close`, as a stalled driver is.
            self._wait(order.seconds)
        if self._now_ns() < self._slow_until_ns and faulty.fps:
            self._wait(SLOWED / faulty.fps)
        frame = None if faulty.closed else faulty.source.read()
        if frame is None or faulty.closed:
            return None
        number = frame.id + faulty.offset
        self._next_id = number + 1
        return self._alter(frame, number)

    def _alter(self, frame: Frame, number: int) -> Frame:
        order = self._take(number, ("freeze", "resize", "corrupt"))
        if order is not None:
            until_ns = self._note(order, number)
            if order.kind == "corrupt":
                raise CorruptFrameError(frame.id)
            if order.kind == "resize":
                self._halved = not self._halved
            else:
                self._held, self._held_until_ns = self._last, until_ns
        image_bgr, truth = frame.image_bgr, frame.truth
        if self._halved:
            image_bgr = np.ascontiguousarray(image_bgr[::2, ::2])
            truth = None if truth is None else np.ascontiguousarray(truth[::2, ::2])
        if self._held is not None and self._now_ns() < self._held_until_ns:
            image_bgr, truth = self._held.copy(), None
        self._last = image_bgr
        return replace(frame, image_bgr=image_bgr, truth=truth)

    def _take(self, number: int, kinds: tuple[str, ...]) -> FaultOrder | None:
        if self._orders and self._orders[0].frame <= number and self._orders[0].kind in kinds:
            return self._orders.popleft()
        return None

    def _note(self, order: FaultOrder, number: int) -> int:
        ended_ns = self._now_ns() + round(order.seconds * 1e9)
        self.truth.append(InjectedFault(kind=order.kind, frame=number, ended_ns=ended_ns))
        return ended_ns


class _Faulty:
    """One opened camera, as the supervisor gets it."""

    def __init__(self, injector: FaultInjector, source: Source, offset: int) -> None:
        self.source, self.offset = source, offset
        self.size_hw, self.fps, self.live, self.clock = source.size_hw, source.fps, source.live, source.clock
        self.closed = False
        self._injector = injector

    def read(self) -> Frame | None:
        return self._injector.read(self)

    def close(self) -> None:
        self.closed = True
        self.source.close()
