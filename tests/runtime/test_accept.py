"""`edgeseg accept` over ONNX Runtime: a page that says it was no device, and a line for each kind of failure."""

from __future__ import annotations

import getpass
import json
import platform
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edgeseg.runtime.accept.checks import plan_steps, run_steps
from edgeseg.runtime.accept.line import Line, Verdict, judge, not_run
from edgeseg.runtime.accept.live import LiveMinute
from edgeseg.runtime.accept.page import describe, write_page
from edgeseg.runtime.accept.subject import Subject
from edgeseg.runtime.accept.trial import Scored, Trial
from edgeseg.runtime.bundle import open_bundle, write_bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.errors import BackendError, EdgesegError
from edgeseg.runtime.manifest import Golden
from edgeseg.runtime.objective import parse_objective
from edgeseg.runtime.telemetry import Reading, Sampler

CPU = Subject(kind="cpu", backend="ort", sentence="This was not a device: ONNX Runtime ran on the CPU.")


def accept(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, ["accept", *map(str, arguments)])


def look_at(trial: Trial, *names: str) -> dict[str, Verdict]:
    """Take just the steps of these names."""
    with ExitStack() as stack:
        steps = [step for step in plan_steps(trial, stack) if step[0] in names]
        assert [name for name, _ in steps] == list(names)
        return {line.name: line.verdict for line in run_steps(steps, tell=lambda lines, known: None)}


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in json.loads(path.read_text())["lines"]}


@pytest.fixture
def spoilt_golden(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle with a golden mask that its graph does not give, and its manifest in order."""
    folder = tmp_path / "spoilt"
    shutil.copytree(tiny_bundle, folder)
    (folder / "manifest.json").unlink()
    mask = cv2.imread(str(folder / "golden/blocks.mask.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    mask[:8, :12] = np.bitwise_xor(mask[:8, :12], 1)
    assert cv2.imwrite(str(folder / "golden/blocks.mask.png"), mask)
    manifest = open_bundle(tiny_bundle).manifest
    golden = Golden(frames=("blocks",), agreement={"fp32": 0.99})
    write_bundle(
        folder,
        name="spoilt",
        contract=manifest.contract,
        stages=dict(manifest.stages),
        golden=golden,
        provenance=manifest.provenance,
    )
    return folder


def test_page_and_document_agree_and_say_first_that_it_was_no_device(tiny_bundle: Path, tmp_path: Path) -> None:
    page, document_path = tmp_path / "accept.html", tmp_path / "accept.json"
    done = accept(
        tiny_bundle, "--duration", "0.5", "--html", page, "--json", document_path, "--slo", "age_p99=1000000ms"
    )
    assert done.exit_code == 0, done.output
    document = json.loads(document_path.read_text())
    assert list(document)[:2] == ["schema", "summary"] and document["schema"] == "edgeseg/accept/1"
    assert document["summary"].startswith("This was not a device") and document["subject"]["kind"] == "cpu"
    lines = read_lines(document_path)
    assert lines["golden frames, fp32"]["outcome"] == lines["live camera"]["outcome"] == "pass"
    assert lines["objective age_p99=1000000ms"] == {
        "name": "objective age_p99=1000000ms",
        "outcome": "pass",
        "found": "met",
    }
    assert lines["faults"]["outcome"] == "pass" and "corrupt, disconnect, resize" in lines["faults"]["found"]
    assert {"build", "engine cut short", "zero-copy against copying", "mIoU, fp32"} <= {
        name for name, line in lines.items() if line["outcome"] == "not run" and line["found"]
    }
    assert document["outcomes"] == {
        outcome: sum(line["outcome"] == outcome for line in lines.values()) for outcome in ("pass", "fail", "not run")
    }
    assert list(lines["live camera"]["figures"]["frame_age_ms"]) == ["p50", "p90", "p95", "p99", "max"]
    text = page.read_text()
    body = text.partition("<body>")[2].lstrip()
    assert body.startswith('<p class="summary">This was not a device')
    assert all(f"<th>{name}</th>" in text for name in lines)
    assert "<th>frame age</th>" in text and "@media print" in text
    assert not re.search(r"(src|href)=|@import|url\(", text), "it fetches nothing"


def test_page_names_neither_host_nor_user_nor_home(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada-lovelace")
    lines = [Line(name="build", verdict=judge(False, "engines cannot be kept at /home/ada-lovelace/.cache: full"))]
    trial = Trial(subject=CPU, bundle=open_bundle(tiny_bundle), duration_s=1)
    document = describe(trial, lines)
    write_page(tmp_path / "page.html", document)
    for text in (json.dumps(document), (tmp_path / "page.html").read_text()):
        assert "ada-lovelace" not in text and "~/.cache: full" in text
        assert platform.node() not in text
        assert str(tiny_bundle.parent) not in text
        assert getpass.getuser() == "root" or getpass.getuser() not in text


def test_golden_frames_that_do_not_come_out_fail_with_a_fix(spoilt_golden: Path, tmp_path: Path) -> None:
    done = accept(spoilt_golden, "--duration", "0.1", "--json", tmp_path / "accept.json")
    assert done.exit_code == 1
    line = read_lines(tmp_path / "accept.json")["golden frames, fp32"]
    assert line["outcome"] == "fail" and line["fix"]
    assert line["found"] == "98.43 % of the worst frame's pixels are right, 99.00 % are required"
    last = done.output.strip().splitlines()[-1]
    assert last.startswith("error: ") and "golden frames, fp32" in last and "--html PAGE" in last


def test_an_objective_that_is_missed_fails_by_how_much_and_why(tiny_bundle: Path) -> None:
    objective = parse_objective("age_p50=0.001ms")
    trial = Trial(subject=CPU, bundle=open_bundle(tiny_bundle), duration_s=0.3, objectives=(objective,))
    found = look_at(trial, "live camera", "objective age_p50=0.001ms")
    verdict = found["objective age_p50=0.001ms"]
    assert verdict.outcome == "fail" and "missed by" in verdict.found and "inference" in verdict.found
    assert found["live camera"].outcome == "pass", "how soon is for objectives to judge"


@pytest.mark.parametrize(("miou", "outcome"), [(99.5, "pass"), (80.0, "fail")])
def test_labelled_images_are_scored_against_the_manifests_figure(
    street_dataset: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, miou: float, outcome: str
) -> None:
    digest = "0" * 64  # the tiny bundle's stage, 100 %, is of this split
    monkeypatch.setattr("edgeseg.runtime.dataset.Dataset.digest", lambda self, split: digest)
    monkeypatch.setattr("edgeseg.runtime.confusion.ConfusionMatrix.miou", property(lambda self: miou))
    scored = Scored(dataset=load_dataset(street_dataset), split="val")
    trial = Trial(subject=CPU, bundle=open_bundle(tiny_bundle), duration_s=1, scored=scored)
    verdict = look_at(trial, "mIoU, fp32")["mIoU, fp32"]
    assert verdict.outcome == outcome
    assert f"{miou:.2f} % on 4 images of streets, val; 100.00 % where the bundle was made" in verdict.found
    assert verdict.figures["images"] == 4


def test_images_that_the_manifest_does_not_know_are_scored_without_a_verdict_of_loss(
    street_dataset: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    data = ("--data", street_dataset, "--split", "val")
    accept(tiny_bundle, *data, "--duration", "0.1", "--json", tmp_path / "a.json")
    line = read_lines(tmp_path / "a.json")["mIoU, fp32"]
    assert line["outcome"] == "pass" and "no figure for these images" in line["found"]
    assert 0 <= line["figures"]["miou"] <= 100


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nowhere",), 1, "nowhere: no such bundle"),
        (("BUNDLE", "--data", "x"), 2, "--data and --split go together"),
        (("BUNDLE", "--data", "no-folder", "--split", "val"), 1, "no-folder"),
        (("BUNDLE", "--html", "no-folder/a.html", "--duration", "0.1"), 1, "cannot write no-folder/a.html"),
        (("BUNDLE", "--slo", "fps<=3"), 2, "is no objective"),
        (("BUNDLE", "--backend", "tensorrt"), 1, "tensorrt cannot be loaded"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = accept(*(str(tiny_bundle) if word == "BUNDLE" else word for word in arguments))
    assert done.exit_code == status and said in done.output and "Traceback" not in done.output


def test_help_ends_with_an_example() -> None:
    assert "edgeseg accept street --html accept.html" in accept("--help").output.strip().splitlines()[-1]


# --- the steps


def raise_it(error: BaseException) -> Callable[[], Verdict]:
    def step() -> Verdict:
        raise error

    return step


def test_a_step_that_raises_fails_its_own_line_and_no_other() -> None:
    ours = BackendError("no GPU", expected="one", fix="plug it in")
    steps = [("a", raise_it(ours)), ("b", raise_it(ZeroDivisionError("bug\nhere"))), ("c", lambda: judge(True, "ok"))]
    told: list[int] = []
    lines = run_steps(steps, tell=lambda lines, known: told.append(known))
    assert [line.document() for line in lines] == [
        {"name": "a", "outcome": "fail", "found": "no GPU; expected one", "fix": "plug it in"},
        {"name": "b", "outcome": "fail", "found": "ZeroDivisionError: bug here"},
        {"name": "c", "outcome": "pass", "found": "ok"},
    ]
    assert told == [1, 2, 3]


def test_lines_that_were_not_reached_are_told_from_the_first_line_on_and_after_an_interrupt() -> None:
    pages: list[list[str]] = []
    steps = [("a", lambda: judge(True, "ok")), ("b", raise_it(KeyboardInterrupt())), ("c", lambda: not_run("no"))]
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps, tell=lambda lines, known: pages.append([line.verdict.found for line in lines]))
    assert pages == [
        ["ok", "the program ended before", "the program ended before"],
        ["ok", "interrupted", "interrupted"],
    ]


class Telling:
    """A source of telemetry that reads these."""

    name = "telling"

    def __init__(self, *readings: Reading) -> None:
        self._readings = readings

    def readings(self) -> Any:
        yield from self._readings

    def close(self) -> None:
        pass

    def release(self) -> None:
        pass


WARM = Reading(power_w=7.5, power_rail="VDD_IN", temperatures_c={"gpu": 61.0, "cpu": 58.0}, throttle=())


@pytest.mark.parametrize(
    ("readings", "outcome", "said"),
    [
        ((WARM, WARM), "pass", "before 7.5 W (VDD_IN), gpu 61 °C; after 7.5 W (VDD_IN), gpu 61 °C; "),
        (
            (WARM, Reading(temperatures_c={"gpu": 97.0}, throttle=("gpu-throttle",))),
            "fail",
            "clocks were held down after 0 s: gpu-throttle",
        ),
        ((Reading(gpu_percent=3.0),), "not run", "neither power nor temperatures"),
        ((), "not run", "ended by itself"),
    ],
)
def test_power_and_heat_are_told_and_throttling_fails(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, readings: tuple[Reading, ...], outcome: str, said: str
) -> None:
    monkeypatch.setattr("edgeseg.runtime.accept.live.Sampler", lambda: Sampler(lambda: Telling(*readings)))
    live = LiveMinute(Trial(subject=CPU, bundle=open_bundle(tiny_bundle), duration_s=0.2))
    assert live.judge_power().outcome == "not run", "there was no run"
    assert live.run().outcome == "pass"
    verdict = live.judge_power()
    assert verdict.outcome == outcome and said in verdict.found, verdict


def test_a_camera_that_gives_no_mask_fails(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgeseg.runtime.backends.ort.OrtBackend.infer",
        lambda self, frame: (_ for _ in ()).throw(EdgesegError("the network is gone")),
    )
    live = LiveMinute(Trial(subject=CPU, bundle=open_bundle(tiny_bundle), duration_s=0.2))
    (line,) = run_steps([("live camera", live.run)], tell=lambda lines, known: None)
    assert line.verdict.outcome == "fail" and "the network is gone" in line.verdict.found


def test_text_from_outside_is_escaped(tiny_bundle: Path, tmp_path: Path) -> None:
    lines = [Line(name="<b>", verdict=judge(False, "<script>alert(1)</script>", fix="a & b", figure=np.pi))]
    trial = Trial(subject=CPU, bundle=open_bundle(tiny_bundle), duration_s=1)
    write_page(tmp_path / "page.html", describe(trial, lines))
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text and "a &amp; b" in text
