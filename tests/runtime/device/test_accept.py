"""`edgeseg accept` on the simulated GPU: every line runs, every planted fault fails its line, and nobody is fooled."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.runtime.device.simulator import LAUNCH_FAILED, Simulator

from edgeseg.runtime.accept.checks import plan_steps, run_steps
from edgeseg.runtime.accept.line import Verdict
from edgeseg.runtime.accept.subject import find_subject
from edgeseg.runtime.accept.trial import Trial
from edgeseg.runtime.backends.tensorrt import PlanRunner, TensorRTBackend
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.engine.cache import AbsentError, SealedFolder, UnusableError

CASES = ("engine used again", "engine cut short", "engine with a wrong tag", "engine of another TensorRT")

pytestmark = pytest.mark.usefixtures("trt", "cache")


def look_at(bundle: Bundle, *names: str) -> dict[str, Verdict]:
    """Take just the steps of these names."""
    with ExitStack() as stack:
        trial = Trial(subject=find_subject("tensorrt"), bundle=bundle, duration_s=0.5)
        steps = [step for step in plan_steps(trial, stack) if step[0] in names]
        assert [name for name, _ in steps] == list(names)
        return {line.name: line.verdict for line in run_steps(steps, tell=lambda lines, known: None)}


def accept(bundle: Bundle, folder: Path, *arguments: str) -> tuple[Any, dict[str, dict[str, Any]], dict[str, Any]]:
    """Run the command; returns what click gives, the lines by name and the document."""
    paths = ["--json", str(folder / "accept.json"), "--html", str(folder / "accept.html")]
    done = CliRunner().invoke(main, ["accept", str(bundle.path), "--duration", "0.5", *paths, *arguments])
    document = json.loads((folder / "accept.json").read_text())
    return done, {line["name"]: line for line in document["lines"]}, document


def test_every_line_passes_on_a_sound_backend_and_the_page_says_that_it_was_simulated(
    device_bundle: Bundle, tmp_path: Path, cache: Path, trt: Any
) -> None:
    done, lines, document = accept(device_bundle, tmp_path)
    assert done.exit_code == 0, done.output
    outcomes = {name: line["outcome"] for name, line in lines.items()}
    not_run = {name for name, outcome in outcomes.items() if outcome == "not run"}
    assert not_run <= {"power and temperature", "CUDA graph against none", "mIoU, fp16", "mIoU, int8"}
    assert {outcomes[name] for name in (*CASES, "build", "golden frames, int8", "FP16 against INT8")} == {"pass"}
    assert {outcomes[name] for name in ("memory given back", "live camera", "faults")} == {"pass"}
    assert "zero-copy" in lines["zero-copy against copying"]["found"]
    assert "truncated" in lines["engine cut short"]["found"] and "wrong tag" in lines[CASES[2]]["found"]
    assert document["subject"]["kind"] == "simulated"
    first = "This was not a device but a simulation of one, Simulated Orin (compute capability 8.7), TensorRT "
    assert document["summary"].startswith(first + trt.__version__)
    assert "no NVIDIA driver open" in document["summary"]
    assert done.output.startswith("This was not a device")
    body = (tmp_path / "accept.html").read_text().partition("<body>")[2]
    assert body.lstrip().startswith('<p class="summary">This was not a device')
    assert not list(cache.glob(".accept-*")), "the copies are gone"


def test_a_process_that_holds_the_driver_open_and_has_the_library_is_a_device(tmp_path: Path) -> None:
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd" / "7").symlink_to("/dev/nvidia0")
    (tmp_path / "maps").write_text("7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/libnvinfer.so.10.3.0\n")
    assert find_subject("tensorrt", proc=tmp_path).kind == "device"
    (tmp_path / "fd" / "7").unlink()
    (tmp_path / "fd" / "7").symlink_to("/dev/nvme0n1")
    subject = find_subject("tensorrt", proc=tmp_path)
    assert subject.kind == "simulated" and "library" not in subject.sentence


@pytest.fixture
def off_by_one(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[PlanRunner], bool]], None]:
    """Let the runners for which `where` holds get a pixel in four wrong."""

    def plant(where: Callable[[PlanRunner], bool]) -> None:
        infer = PlanRunner.infer

        def off(self: PlanRunner, frame: Any) -> Any:
            mask = infer(self, frame).copy()
            mask[:, ::2, ::2] ^= where(self)
            return mask

        monkeypatch.setattr(PlanRunner, "infer", off)

    return plant


def test_an_engine_that_gets_pixels_wrong_fails_its_line_and_is_not_chosen(
    device_bundle: Bundle, off_by_one: Callable[..., None]
) -> None:
    off_by_one(lambda runner: runner.precision == "int8")
    found = look_at(device_bundle, "golden frames, fp16", "golden frames, int8", "FP16 against INT8")
    assert found["golden frames, int8"].outcome == "fail" and "75.00 %" in found["golden frames, int8"].found
    assert found["golden frames, fp16"].outcome == "pass"
    assert found["FP16 against INT8"].figures["chosen"] == "fp16"


def test_a_choice_that_is_slower_than_its_rival_fails(device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.runtime.accept.checks.medians_ms", lambda engines, frame: [3.0, 9.0])
    monkeypatch.setattr(TensorRTBackend, "candidates", staticmethod(lambda *_: ["int8", "fp16"]))
    verdict = look_at(device_bundle, "FP16 against INT8")["FP16 against INT8"]
    assert verdict.outcome == "fail" and verdict.found == "fp16 3 ms, int8 9 ms; auto takes int8"


def test_zero_copy_that_gives_another_mask_fails(device_bundle: Bundle, off_by_one: Callable[..., None]) -> None:
    off_by_one(lambda runner: runner.zero_copy)
    verdict = look_at(device_bundle, "zero-copy against copying")["zero-copy against copying"]
    assert verdict.outcome == "fail" and "the masks differ" in verdict.found


@pytest.mark.parametrize(
    ("ignored", "failing"),
    [
        ("truncated", "engine cut short"),
        ("wrong tag", "engine with a wrong tag"),
        ("was made for TensorRT", "engine of another TensorRT"),
    ],
)
def test_a_cache_that_leaves_out_a_check_fails_its_case(
    device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, ignored: str, failing: str
) -> None:
    load, kept = SealedFolder.load, dict[str, bytes]()

    def trusting(self: SealedFolder, name: str, facts: Any) -> bytes:
        try:
            kept[name] = load(self, name, facts)
        except UnusableError as error:
            if ignored not in str(error):
                raise
        return kept[name]

    monkeypatch.setattr(SealedFolder, "load", trusting)
    found = look_at(device_bundle, *CASES)
    assert {name for name in CASES if found[name].outcome == "fail"} == {failing}
    assert "the spoilt engine was used" in found[failing].found


def test_a_cache_that_forgets_fails_the_second_start(device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: SealedFolder, name: str, facts: Any) -> bytes:
        raise AbsentError(f"there is no {name} yet")

    monkeypatch.setattr(SealedFolder, "load", forget)
    verdict = look_at(device_bundle, "engine used again")["engine used again"]
    assert verdict.outcome == "fail" and verdict.found == "it was built twice"


def test_memory_that_is_not_given_back_fails(device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = find_subject("tensorrt").gpu
    look_at(device_bundle, "build")
    free = iter(range(100 << 30, 0, -(1 << 30)))
    monkeypatch.setattr(gpu, "free_memory", lambda: (next(free), 128 << 30))
    verdict = look_at(device_bundle, "memory given back")["memory given back"]
    assert verdict.outcome == "fail" and verdict.figures["lost_mib"] == 3 << 10


def test_what_this_gpu_cannot_do_is_no_failure(device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_subject("tensorrt").gpu, "integrated", False)
    monkeypatch.setattr("edgeseg.runtime.accept.engines.find_spec", lambda name: None)
    names = {"zero-copy against copying": "memory of its own", "CUDA graph against none": "cuda-python"}
    for name, verdict in look_at(device_bundle, *names).items():
        assert verdict.outcome == "not run" and names[name] in verdict.found


def test_a_gpu_lost_midway_fails_what_needs_it_in_one_line_each(sim: Simulator, device_bundle: Bundle) -> None:
    look_at(device_bundle, "build")
    sim.fail(LAUNCH_FAILED, call="cuEventSynchronize", count=1)
    found = look_at(device_bundle, "golden frames, fp16", "live camera", "power and temperature")
    assert [one.outcome for one in found.values()] == ["fail", "fail", "not run"]
    assert "the GPU failed" in found["golden frames, fp16"].found
    assert all("\n" not in one.found for one in found.values())
    assert found["power and temperature"].found == "the live camera gave no figures"
