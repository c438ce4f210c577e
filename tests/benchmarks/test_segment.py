"""The warm-up ends by its rule, and the surroundings are read where there are any."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from edgeseg.benchmarks.segment import warm_up
from edgeseg.benchmarks.surroundings import read_moment, watch_surroundings


def test_warm_up_ends_when_two_windows_agree() -> None:
    times_ms = [*(100.0 - 4 * index for index in range(16)), *[30.0] * 100]
    warmth = warm_up(lambda index: times_ms[index])
    assert warmth.steady
    assert warmth.frames == 29  # 5 of the older 8 at 30 ms, as a median of eight needs
    assert warmth.whole_path_ms == 30


def test_warm_up_that_never_settles_ends_at_the_frame_limit() -> None:
    warmth = warm_up(lambda index: 1.2**index, now_s=lambda: 0.0)
    assert not warmth.steady
    assert warmth.frames == 500


def test_warm_up_that_never_settles_ends_at_the_time_limit() -> None:
    clock = count()
    warmth = warm_up(lambda index: 1.2**index, now_s=lambda: next(clock) / 2)
    assert not warmth.steady
    assert warmth.seconds == 10


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_moment_reads_clocks_temperatures_and_load(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "729600\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "51250\n",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "",
            "proc/loadavg": "1.25 0.5 0.1 1/100 4000\n",
        },
    )
    moment = read_moment(tmp_path)
    assert moment.clocks_mhz == (1510.4, 729.6)
    assert moment.temperatures_c == {"0:cpu-thermal": 51.25}
    assert moment.load_1m == 1.25


def test_moment_of_a_machine_that_tells_nothing_is_empty(tmp_path: Path) -> None:
    assert read_moment(tmp_path).model_dump(exclude_none=True) == {}


def test_others_are_what_was_busy_without_us(tmp_path: Path) -> None:
    write(tmp_path, {"proc/stat": "cpu  100 0 0 5000 10 0 0 0 0 0\ncpu0 1 1\n"})
    with watch_surroundings(tmp_path) as watch:
        write(tmp_path, {"proc/stat": "cpu  100000 0 0 5000 10 0 0 100 0 0\ncpu0 1 1\n"})
    found = watch.found
    assert found.own_cores is not None and found.other_cores is not None
    assert (found.own_cores + found.other_cores) * watch.seconds == pytest.approx(1000, rel=0.01)


def test_surroundings_without_proc_leave_others_out(tmp_path: Path) -> None:
    with watch_surroundings(tmp_path) as watch:
        pass
    assert watch.found.other_cores is None
