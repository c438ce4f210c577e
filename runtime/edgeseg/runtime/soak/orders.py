"""Random faults, the same for the same seed, each long enough to be told from its frames alone."""

from __future__ import annotations

import math
import random

from edgeseg.runtime.sources.faults import FROZEN_FRAMES, FROZEN_S, KINDS, SLOW_FRAMES
from edgeseg.runtime.sources.inject import SLOWED, FaultOrder
from edgeseg.runtime.sources.supervised import Patience

LONGEST_S = 3.0
"""At most this much longer than the least that can be told."""


def random_faults(seed: int, *, fps: float, seconds: float, every_s: float) -> tuple[FaultOrder, ...]:
    """Return faults of all kinds over `seconds` of a camera of `fps`, with a pause of `every_s` between, on average.

    One begins only once the one before is over and was told to be.
    """
    chance, period_s = random.Random(seed), 1 / fps
    least_s = {
        "stall": max(Patience().stall_s, 4 * period_s) + 1.0,
        "freeze": max(FROZEN_S, FROZEN_FRAMES * period_s) + 2 * period_s,
        "slow": (SLOW_FRAMES + 2) * SLOWED * period_s,
        "disconnect": 0.5,
    }
    orders: list[FaultOrder] = []
    frame = 1
    while True:
        frame += math.ceil(chance.expovariate(1 / every_s) * fps)
        if frame > seconds * fps:
            return tuple(orders)
        kind = chance.choice(KINDS)
        lasts_s = least_s[kind] + chance.uniform(0, LONGEST_S) if kind in least_s else 0.0
        orders.append(FaultOrder(kind=kind, frame=frame, seconds=lasts_s))
        frame += math.ceil(lasts_s * fps) + 2 * SLOW_FRAMES
