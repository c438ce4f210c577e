"""Percentiles, intervals, ratios and drift keep their laws."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeseg.benchmarks.drift import LEAST_SAMPLES, find_drift
from edgeseg.benchmarks.statistics import (
    PERCENTILES,
    Samples,
    estimate_interleaved_ratio,
    estimate_percentile,
    estimate_ratio,
    percentile,
    samples_needed,
)

TIMES = st.floats(min_value=0.0009765625, max_value=1e5, width=32)


def times(least: int, most: int = 80) -> st.SearchStrategy[Samples]:
    return arrays(np.float32, st.integers(least, most), elements=TIMES)


def noise(count: int, seed: int, median_ms: float = 10.0) -> Samples:
    """Skewed times, as of an inference."""
    samples: npt.NDArray[np.float64] = median_ms * np.random.default_rng(seed).lognormal(0, 0.1, count)
    return samples.astype(np.float32)


def correlated_noise(count: int, seed: int) -> Samples:
    """Times with a median of 10 ms, each of which takes after the one before."""
    steps = np.random.default_rng(seed).normal(0, 1, count)
    level, levels = steps[0] / np.sqrt(1 - 0.7**2), []
    for step in steps:
        level = 0.7 * level + step
        levels.append(level)
    return (10 * np.exp(0.05 * np.array(levels))).astype(np.float32)


@given(times(1), st.floats(0.1, 100))
def test_percentile_is_a_sample_that_enough_do_not_exceed(samples: Samples, percent: float) -> None:
    value = percentile(samples, percent)
    assert value in samples
    assert np.mean(samples <= np.float32(value)) >= percent / 100 - 1e-9
    assert np.mean(samples < np.float32(value)) < percent / 100


@given(times(1))
def test_percentiles_are_ordered(samples: Samples) -> None:
    values = [percentile(samples, percent) for percent in PERCENTILES.values()]
    assert values == sorted(values)


@settings(max_examples=25)
@given(times(6), st.sampled_from([50.0, 90.0]))
def test_interval_holds_its_figure_and_lies_within_the_samples(samples: Samples, percent: float) -> None:
    estimate = estimate_percentile(samples, percent)
    if samples.size < samples_needed(percent):
        assert estimate is None
        return
    assert estimate is not None
    assert samples.min() <= estimate.low <= estimate.value <= estimate.high <= samples.max()
    assert estimate.value == percentile(samples, percent)


@settings(max_examples=25)
@given(times(6), st.sampled_from([0.25, 2.0, 8.0]))
def test_interval_scales_with_the_unit(samples: Samples, factor: float) -> None:
    plain, scaled = estimate_percentile(samples, 50), estimate_percentile(samples * np.float32(factor), 50)
    assert plain is not None and scaled is not None
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx(
        (plain.value * factor, plain.low * factor, plain.high * factor)
    )


@settings(max_examples=25)
@given(times(6))
def test_ratio_of_samples_to_themselves_is_one(samples: Samples) -> None:
    ratio = estimate_ratio(samples, samples)
    assert ratio is not None
    assert ratio.value == 1
    assert ratio.low <= 1 <= ratio.high


def test_samples_needed_are_those_that_bound_a_percentile_from_above() -> None:
    assert {name: samples_needed(percent) for name, percent in PERCENTILES.items()} == {
        "p50": 6, "p90": 36, "p95": 72, "p99": 368, "p99_9": 3688,
    }  # fmt: skip


@pytest.mark.parametrize("percent, true_ms", [(50.0, 10.0), (90.0, 11.367)])
def test_interval_holds_the_truth_about_as_often_as_it_says(percent: float, true_ms: float) -> None:
    held = 0
    for seed in range(100):
        estimate = estimate_percentile(noise(300, seed), percent)
        assert estimate is not None
        held += estimate.low <= true_ms <= estimate.high
    assert held >= 86  # 95 are due; a right one falls below this once in 10 000 times


def test_interval_is_wider_where_samples_depend_on_each_other() -> None:
    samples = correlated_noise(2000, seed=1)
    shuffled = np.random.default_rng(0).permutation(samples)
    together, apart = estimate_percentile(samples, 50), estimate_percentile(shuffled, 50)
    assert together is not None and apart is not None
    assert together.high - together.low > 1.3 * (apart.high - apart.low)


def test_interleaved_ratio_cancels_what_slows_both() -> None:
    slow = np.linspace(1, 3, 40, dtype=np.float32)[:, None]  # the machine gets three times slower
    base = noise(160, 1).reshape(40, 4) * slow
    other = noise(160, 2, median_ms=13.0).reshape(40, 4) * slow
    interleaved, apart = estimate_interleaved_ratio(base, other), estimate_ratio(base.ravel(), other.ravel())
    assert interleaved is not None and apart is not None
    assert interleaved.low <= 1.3 <= interleaved.high
    assert interleaved.high - interleaved.low < 0.5 * (apart.high - apart.low)


def test_interleaved_ratio_needs_six_rounds() -> None:
    assert estimate_interleaved_ratio(np.ones((5, 4), np.float32), np.ones((5, 4), np.float32)) is None
    assert estimate_interleaved_ratio(np.ones((6, 4), np.float32), np.ones((6, 4), np.float32)) is not None


def test_steady_run_neither_drifts_nor_throttles() -> None:
    for seed in range(50):
        drift = find_drift(noise(400, seed))
        assert drift is not None
        assert drift.throttled_from is None
        assert not drift.drifted or abs(drift.ratio.value - 1) < 0.06


def test_slow_climb_is_drift() -> None:
    drift = find_drift(noise(600, 3) * np.linspace(1, 1.2, 600, dtype=np.float32))
    assert drift is not None
    assert drift.drifted
    assert drift.ratio.low < 1.2 * 5 / 6 / (1 + 0.2 / 6) * 1.17 and drift.ratio.low > 1.05


@pytest.mark.parametrize("at", [0.3, 0.5, 0.85])
def test_lasting_slowdown_is_throttling_from_where_it_began(at: float) -> None:
    samples = noise(900, 4)
    samples[round(at * 900) :] *= 1.4
    drift = find_drift(samples)
    assert drift is not None and drift.throttled_from is not None and drift.throttled_ratio is not None
    assert drift.throttled_from == pytest.approx(at, abs=0.05)
    assert drift.throttled_ratio.low <= 1.4 <= drift.throttled_ratio.high * 1.02


@pytest.mark.parametrize("begin, end", [(300, 420), (540, 780)])
def test_slow_moment_that_passes_is_no_throttling(begin: int, end: int) -> None:
    samples = noise(900, 5)
    samples[begin:end] *= 2
    drift = find_drift(samples)
    assert drift is not None
    assert drift.throttled_from is None


def test_run_that_is_too_short_says_nothing_of_drift() -> None:
    assert find_drift(noise(LEAST_SAMPLES - 1, 0)) is None
    assert find_drift(noise(LEAST_SAMPLES, 0)) is not None
