from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.telemetry import Account, Reading, joules_per_frame, parse_line
from edgeseg.runtime.telemetry.account import describe_figures

# Layouts and figures as published, re-typed. JetPack 6, Orin Nano: NVIDIA's forum and users' logs of L4T R36 (without
# root there is no clock). JetPack 7.2, AGX Orin: rbonghi/jetson_stats pull request 894. Thor: the same project's
# issues 885 and 894 and wendylabsinc/WendyOS pull request 1316 (rail names, lower-case sensors, peak after the slash).
JETPACK6_NANO = (
    "05-05-2025 06:05:39 RAM 2639/7620MB (lfb 9x4MB) SWAP 12/3810MB (cached 0MB) "
    "CPU [1%@729,4%@729,off,4%@1510,5%@729,4%@729] GR3D_FREQ 10%@1300 cpu@44.156C soc2@43.781C cv0@-256C gpu@45.968C "
    "tj@45.968C VDD_IN 5263mW/5163mW VDD_CPU_GPU_CV 717mW/717mW VDD_SOC 1794mW/1794mW NC 0mW/0mW"
)
JETPACK72_AGX = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,4%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDLA0 off PVA0_FREQ off APE 174 cpu@52.968C/52.968C soc2@48.406C/48.406C "
    "gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW "
    "VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
THOR = (
    "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 "
    "GR3D_FREQ @[1000,off,1000] NVENC0_FREQ @1691 VIC off cpu@49.75C/49.75C tj@51.218C/51.218C gpu@62.906C/66.625C "
    "VDD_GPU 6330mW/6330mW/6330mW VDD_CPU_SOC_MSS 4000mW/4100mW/4200mW VIN_SYS_5V0 7424mW/7424mW/7424mW "
    "VIN 28906mW/14453mW/28906mW"
)


def test_jetpack_6_line_is_read() -> None:
    reading = parse_line(JETPACK6_NANO)
    assert (reading.power_w, reading.power_rail) == (5.263, "VDD_IN")
    assert reading.rails_w == {"VDD_IN": 5.263, "VDD_CPU_GPU_CV": 0.717, "VDD_SOC": 1.794}
    assert reading.temperatures_c == {"cpu": 44.156, "soc2": 43.781, "gpu": 45.968, "tj": 45.968}
    assert (reading.gpu_percent, reading.gpu_mhz) == (10, 1300)
    assert (reading.cpu_percent, reading.cpu_mhz) == (3.6, 1510)
    assert (reading.memory_used_mib, reading.memory_total_mib, reading.swap_used_mib) == (2639, 7620, 12)


def test_jetpack_72_line_is_read() -> None:
    reading = parse_line(JETPACK72_AGX)
    assert (reading.gpu_percent, reading.gpu_mhz, reading.emc_percent) == (12, 1300, 3)
    assert reading.power_w == pytest.approx(5.139 + 3.268 + 5.5)
    assert reading.power_rail == "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
    assert reading.temperatures_c == {"cpu": 52.968, "soc2": 48.406, "gpu": 47.625}


def test_thor_line_is_read_and_what_it_lacks_is_absent() -> None:
    reading = parse_line(THOR)
    assert (reading.gpu_percent, reading.gpu_mhz) == (None, 1000)
    assert reading.emc_percent is None
    assert (reading.cpu_percent, reading.cpu_mhz) == (2.5, 2601)
    assert (reading.power_w, reading.power_rail) == (28.906, "VIN")
    assert reading.temperatures_c["gpu"] == 62.906
    assert reading.swap_used_mib is None


@pytest.mark.parametrize(
    ("token", "percent", "mhz"),
    [
        ("GR3D_FREQ 0%", 0, None),
        ("GR3D_FREQ 99%@[0,0]", 99, 0),
        ("GR3D_FREQ 99%@[611, 612]", 99, 612),
        ("GR3D_FREQ 101%@300", None, 300),
        ("GR3D_FREQ @[off,N/A,-3]", None, None),
        ("GR3D_FREQ 12", None, None),
        ("GR3D2_FREQ 12%@300", None, None),
    ],
)
def test_every_form_of_the_gpus_token_is_read(token: str, percent: float | None, mhz: float | None) -> None:
    reading = parse_line(f"RAM 1/2MB (lfb 1x512kB) {token} APE 174\n")
    assert (reading.gpu_percent, reading.gpu_mhz) == (percent, mhz)


@pytest.mark.parametrize(
    "token",
    [
        "cpu@-256C",
        "cpu@999C",
        "RAM 9/3MB",
        "VDD_IN 5W",
        "VDD_IN -392mW/1mW",
        "VDD_IN " + "9" * 400 + "mW/1mW",
        "VDD_IN",
    ],
)
def test_what_cannot_be_is_absent(token: str) -> None:
    assert parse_line(token) == Reading()


def test_rails_of_older_releases_have_no_unit() -> None:
    reading = parse_line("CPU [35%@1479] GR3D_FREQ 48%@921 POM_5V_IN 4321/4105 POM_5V_GPU 1102/980")
    assert (reading.power_w, reading.power_rail) == (4.321, "POM_5V_IN")


def figures(reading: Reading) -> dict[str, Any]:
    """What a reading holds, one key for each figure."""
    found = {name: getattr(reading, name) for name in Reading.__slots__ if not name.endswith(("_w", "_c", "rail"))}
    found |= {f"{name} W": watts for name, watts in reading.rails_w.items()}
    found |= {f"{name} C": celsius for name, celsius in reading.temperatures_c.items()}
    return {name: value for name, value in found.items() if value is not None}


LINES = st.sampled_from([JETPACK6_NANO, JETPACK72_AGX, THOR])


@given(LINES, st.data())
def test_tokens_that_are_lost_take_only_their_own_figures_along(line: str, data: st.DataObject) -> None:
    # A token here is what belongs together: a name with its figure.
    tokens = re.findall(r"[A-Z]\w* (?:\[[^\]]*\]\S*|[\d@]\S*)|\S+", line)
    kept = [token for token in tokens if data.draw(st.booleans())]
    assert figures(parse_line(" ".join(kept))).items() <= figures(parse_line(line)).items()


@given(LINES, st.data())
def test_mangled_lines_give_only_figures_that_can_be(line: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(at, len(line)))
    reading = parse_line(line[:at] + data.draw(st.text(max_size=8)) + line[end:])
    for percent in (reading.gpu_percent, reading.cpu_percent, reading.emc_percent):
        assert percent is None or 0 <= percent <= 100
    assert all(-60 <= celsius <= 200 for celsius in reading.temperatures_c.values())
    assert all(0 <= watts < 1e6 for watts in reading.rails_w.values())
    assert (reading.power_w is None) == (reading.power_rail is None)
    if reading.memory_used_mib is not None and reading.memory_total_mib is not None:
        assert reading.memory_used_mib <= reading.memory_total_mib


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    parse_line(text)


def test_energy_is_integrated_and_shared_among_frames() -> None:
    account = Account()
    for second, watts in enumerate((10.0, 20.0, 20.0)):
        account.add(Reading(power_w=watts, power_rail="VDD_IN", temperatures_c={"gpu": 40.0 + second}), second)
    assert account.mean_power_w == pytest.approx(17.5)
    document = account.document(frames=70, seconds=4.0)
    assert document["joules_per_frame"] == pytest.approx(1.0)
    assert document["power_w"] == {"mean": 17.5, "max": 20.0, "rail": "VDD_IN"}
    assert document["temperature_c"] == {"gpu": 42.0}


def test_gaps_and_changes_of_rail_are_not_guessed() -> None:
    account = Account()
    account.add(Reading(power_w=10, power_rail="VDD_IN"), 0)
    account.add(Reading(power_w=10, power_rail="VDD_IN"), 1)
    account.add(Reading(power_w=90, power_rail="VDD_IN"), 3600)
    account.add(Reading(power_w=99, power_rail="VIN"), 3601)
    account.add(Reading(), 3602)
    assert account.mean_power_w == 10


def test_figures_that_no_reading_had_are_left_out() -> None:
    account = Account()
    account.add(Reading(gpu_percent=0), 0)
    assert account.document(frames=5, seconds=1) == {"readings": 1, "gpu_percent": {"min": 0, "max": 0}}


def test_time_to_throttle_runs_from_the_first_reading_to_the_first_throttled_one() -> None:
    account = Account()
    for second, reasons in enumerate(((), (), ("gpu-throttle",), (), ("over-current",))):
        account.add(Reading(throttle=reasons), 100.0 + second)
    document = account.document()
    assert document["time_to_throttle_s"] == 2
    assert document["throttled"] == ["gpu-throttle", "over-current"]


def test_device_that_never_throttled_says_so_and_one_that_does_not_tell_says_nothing() -> None:
    told, silent = Account(), Account()
    told.add(Reading(throttle=()), 0)
    silent.add(Reading(), 0)
    assert told.document()["throttled"] == []
    assert "throttled" not in silent.document()


@pytest.mark.parametrize(
    ("watts", "frames", "seconds"), [(None, 1, 1.0), (1.0, 0, 1.0), (1.0, None, 1.0), (1.0, 1, 0.0)]
)
def test_joules_per_frame_need_power_frames_and_time(
    watts: float | None, frames: int | None, seconds: float | None
) -> None:
    assert joules_per_frame(watts, frames=frames, seconds=seconds) is None


def test_figures_are_told_in_a_line_as_far_as_they_are_known() -> None:
    account = Account()
    account.add(Reading(power_w=9.0, power_rail="VDD_IN", temperatures_c={"gpu": 61.0, "cpu": 55.0}, throttle=()), 0)
    account.add(Reading(power_w=11.0, power_rail="VDD_IN", temperatures_c={"gpu": 93.4}, throttle=("gpu-throttle",)), 4)
    assert describe_figures(account.document(frames=100, seconds=5.0)) == (
        "power 10.0 W mean, 11.0 W at most (VDD_IN), 0.5 J a frame, gpu up to 93 °C, "
        "clocks held down after 4 s (gpu-throttle)"
    )
    silent = Account()
    silent.add(Reading(gpu_percent=3.0), 0)
    assert describe_figures(silent.document()) == ""
    cool = Account()
    cool.add(Reading(throttle=()), 0)
    assert describe_figures(cool.document()) == "clocks were not held down"
