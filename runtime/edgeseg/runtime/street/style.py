"""What a seed decides for the whole street: its weather, its width, how full it is, and the light at a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeseg.runtime.street.textures import Bgr
from edgeseg.runtime.street.view import Bend


@dataclass(frozen=True, kw_only=True)
class Weather:
    """Sky colours (top, at the horizon, of clouds) and what they do to the light."""

    top: Bgr
    low: Bgr
    cloud: Bgr
    cover: float
    """0 clear .. 1 overcast."""
    sun: float
    """0 no shadows .. 1 hard sunlight."""
    gain: float
    """Exposure of what is on the ground."""
    warmth: float
    """Share by which red is raised and blue lowered."""
    haze_m: float
    """Distance at which a thing keeps 1/e of its own colour."""


_WEATHERS = (
    Weather(
        top=(206, 150, 96),
        low=(240, 226, 206),
        cloud=(248, 246, 244),
        cover=0.35,
        sun=1.0,
        gain=1.05,
        warmth=0.05,
        haze_m=420,
    ),
    Weather(
        top=(248, 240, 230),
        low=(252, 250, 248),
        cloud=(255, 255, 255),
        cover=0.75,
        sun=0.45,
        gain=0.82,
        warmth=0.0,
        haze_m=300,
    ),
    Weather(
        top=(206, 198, 190),
        low=(238, 236, 232),
        cloud=(222, 216, 212),
        cover=0.9,
        sun=0.12,
        gain=0.72,
        warmth=-0.03,
        haze_m=240,
    ),
    Weather(
        top=(190, 140, 100),
        low=(196, 220, 240),
        cloud=(214, 222, 240),
        cover=0.5,
        sun=0.85,
        gain=0.8,
        warmth=0.12,
        haze_m=300,
    ),
    Weather(
        top=(176, 164, 152),
        low=(228, 224, 220),
        cloud=(186, 178, 172),
        cover=0.85,
        sun=0.05,
        gain=0.5,
        warmth=-0.04,
        haze_m=280,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Style:
    """The street of a seed. Lengths in metres; shares within 0..1."""

    weather: Weather
    bend: Bend
    road_half_m: float
    pavement_m: float
    garden_share: float
    tree_share: float
    parked_share: float
    traffic_share: float
    crowd: float
    """People in ten metres of pavement and direction."""
    asphalt: int
    slab: Bgr
    sun_phase: float
    light_period_s: float
    speed_mps: float

    @property
    def frontage_m(self) -> float:
        """Distance from the centre line to the fronts."""
        return self.road_half_m + self.pavement_m

    @property
    def left_parked(self) -> bool:
        """Whether there is room to park on the camera's own side."""
        return self.road_half_m > 4.1

    @property
    def lane_m(self) -> float:
        """s of the camera: the left lane."""
        return -0.38 * self.road_half_m


def style_of(rng: np.random.Generator, seed: int) -> Style:
    """Draw a style. The weather goes round with the seed, so that neighbouring seeds look different."""
    return Style(
        weather=_WEATHERS[seed % len(_WEATHERS)],
        bend=Bend(
            amplitudes_m=(float(rng.uniform(2, 7)), float(rng.uniform(0.2, 1.2))),
            wavelengths_m=(float(rng.uniform(420, 640)), float(rng.uniform(150, 230))),
            phases=(float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28))),
        ),
        road_half_m=float(rng.uniform(3.7, 4.6)),
        pavement_m=float(rng.uniform(2.8, 5.0)),
        garden_share=float(rng.uniform(0.1, 0.42)),
        tree_share=float(rng.uniform(0.25, 0.8)),
        parked_share=float(rng.uniform(0.12, 0.45)),
        traffic_share=float(rng.uniform(0.2, 0.5)),
        crowd=float(rng.uniform(0.5, 1.0)),
        asphalt=int(rng.integers(88, 132)),
        slab=((148, 156, 162), (138, 140, 144), (126, 140, 156))[int(rng.integers(3))],
        sun_phase=float(rng.uniform(0, 6.28)),
        light_period_s=float(rng.uniform(70, 120)),
        speed_mps=float(rng.uniform(6.5, 9.5)),
    )


@dataclass(frozen=True, kw_only=True)
class Light:
    """Light and air at one moment."""

    left: float
    """Gain of surfaces that face right (the street's left side)."""
    right: float
    facing: float
    """Gain of surfaces that face the camera."""
    shadow_per_m: float
    """Metres that a shadow reaches to the right for each metre of height."""
    shadow_gain: float
    """What is left of the ground's brightness in shadow."""
    exposure: tuple[float, float, float]
    """What middle grey is multiplied by, BGR. White stays white, as on a sensor that is overexposed by the sky."""
    haze: tuple[float, float, float]
    haze_m: float


def light_at(style: Style, time_s: float) -> Light:
    """The sun goes slowly to and fro across the street, and clouds pass."""
    weather = style.weather
    turn = 2 * math.pi * time_s / style.light_period_s + style.sun_phase
    side = math.sin(turn)  # the sun stands to the right (+) or to the left
    passing = 1 + 0.13 * math.sin(2.7 * turn + 1.0) + 0.05 * math.sin(7.3 * turn)
    lit = 0.30 * weather.sun
    warmth = weather.warmth + 0.03 * math.cos(turn)
    gain = weather.gain * passing
    return Light(
        left=0.88 + lit * side,
        right=0.88 - lit * side,
        facing=0.88 - lit * 0.6 * math.cos(turn),
        shadow_per_m=-side * 0.9 * min(1.0, 2 * weather.sun),
        shadow_gain=0.80 - 0.27 * weather.sun,
        exposure=(gain * (1 - warmth), gain, gain * (1 + warmth)),
        haze=(weather.low[0] * 0.86, weather.low[1] * 0.86, weather.low[2] * 0.86),
        haze_m=weather.haze_m,
    )
