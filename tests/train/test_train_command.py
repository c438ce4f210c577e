"""`edgeseg train` through its own door: what it leaves behind, how it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from click.testing import CliRunner, Result

from edgeseg.runtime.cli import main
from edgeseg.train.run import load_run, read_checkpoint

TINY = ("--size", "96x64", "--batch", "4", "--score-every", "1", "--from-scratch")


def _train(dataset: Path, out: Path, *extra: str, epochs: int = 2) -> Result:
    return CliRunner().invoke(main, ["train", str(dataset), "--out", str(out), "--epochs", str(epochs), *TINY, *extra])


def _weights(run: Path) -> dict[str, Any]:
    return read_checkpoint(run).network


@pytest.fixture(scope="module")
def finished(street_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    result = _train(street_dataset, out)
    assert result.exit_code == 0, result.output
    return out


def test_run_folder_holds_checkpoint_metrics_and_pictures(finished: Path) -> None:
    assert sorted(p.name for p in finished.iterdir()) == [
        "checkpoint.pt", "curves.png", "metrics.json", "predictions.png",
    ]  # fmt: skip
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["schema"] == "edgeseg/train/1"
    assert [row["epoch"] for row in metrics["history"]] == [1, 2]
    assert 0 <= metrics["miou"] <= 100 and metrics["config"]["seed"] == 0
    for name in ("curves.png", "predictions.png"):
        picture = cv2.imread(str(finished / name))
        assert picture is not None and picture.std() > 5


def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    street_dataset: Path, tmp_path: Path, finished: Path
) -> None:
    """Killed without warning in the second epoch; the first epoch's checkpoint is whole and the run goes on from it."""
    out = tmp_path / "broken"
    code = (
        "import os, edgeseg.train.commands as c\n"
        "real = c.train_run\n"
        "def dying(*a, on_batch, **k):\n"
        "    seen = []\n"
        "    def count():\n"
        "        seen.append(1)\n"
        "        if len(seen) == 5: os.kill(os.getpid(), 9)\n"
        "    return real(*a, on_batch=count, **k)\n"
        "c.train_run = dying\n"
        f"c.train({['train', str(street_dataset), '--out', str(out), '--epochs', '2', *TINY][1:]!r})\n"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(read_checkpoint(out).history) == 1
    result = _train(street_dataset, out, "--resume")
    assert result.exit_code == 0, result.output
    ours, theirs = _weights(out), _weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rows = [[row["loss"] for row in read_checkpoint(run).history] for run in (out, finished)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--resume", "--seed", "5"), "seed is 5; expected seed 0, as the run was started"),
        (("--resume", "--size", "64x64"), "other classes, palette, size or fit"),
        ((), "holds a run"),
    ],
)
def test_other_settings_are_refused_in_one_line_and_the_run_is_kept(
    street_dataset: Path, finished: Path, extra: tuple[str, ...], message: str
) -> None:
    before = (finished / "checkpoint.pt").read_bytes()
    result = _train(street_dataset, finished, *extra)
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert (finished / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_resume_and_leaves_no_partial_file(
    street_dataset: Path, tmp_path: Path, asked: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "edgeseg.runtime"),
            *("train", str(street_dataset), "--out", str(out), "--epochs", "500", *TINY),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            process.send_signal(asked)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "--resume" in errors.splitlines()[-1]
    assert [p.name for p in out.iterdir()] == ["checkpoint.pt"]
    assert load_run(out).contract.width == 96


@pytest.mark.parametrize("damage", ["truncated", "garbage", "pickle", "absent"])
def test_damaged_checkpoint_is_one_clear_line(
    street_dataset: Path, tmp_path: Path, finished: Path, damage: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    if damage == "truncated":
        path.write_bytes((finished / "checkpoint.pt").read_bytes()[:5000])
    elif damage == "garbage":
        path.write_bytes(b"\x00garbage" * 100)
    elif damage == "pickle":
        torch.save({"format": "edgeseg/checkpoint/1", "network": Path("x")}, path)
    result = _train(street_dataset, tmp_path, "--resume")
    assert result.exit_code == 1
    assert "checkpoint" in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


def test_a_student_learns_its_teachers_answers_and_remembers_which_teacher_it_was(
    street_dataset: Path, tmp_path: Path, finished: Path
) -> None:
    out, teacher = tmp_path / "student", ("--teacher", str(finished), "--distillation", "10")
    result = _train(street_dataset, out, *teacher)
    assert result.exit_code == 0, result.output
    config = json.loads((out / "metrics.json").read_text())["config"]
    assert config["teacher"] == load_run(finished).weights
    assert load_run(out).weights != config["teacher"]

    alone = _train(street_dataset, out, "--resume", epochs=2)
    assert alone.exit_code == 1
    assert "teacher is None" in alone.output and config["teacher"] in alone.output.replace("\n", "")
    again = _train(street_dataset, out, "--resume", *teacher)
    assert again.exit_code == 0, again.output


def test_a_teacher_of_other_classes_is_refused(street_dataset: Path, tmp_path: Path, finished: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(street_dataset, other)
    description = other / "dataset.toml"
    description.write_text(description.read_text().replace('"sky"', '"heaven"'))
    result = _train(other, tmp_path / "student", "--teacher", str(finished))
    assert result.exit_code == 1
    assert "the teacher knows" in result.output and not (tmp_path / "student").exists()


def test_changed_data_is_noticed_on_resume(street_dataset: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(street_dataset, copy)
    out = tmp_path / "run"
    assert _train(copy, out, epochs=1).exit_code == 0
    image = cv2.imread(str(copy / "images" / "train" / "00.png"))
    assert image is not None
    cv2.imwrite(str(copy / "images" / "train" / "00.png"), image // 2)
    result = _train(copy, out, "--resume", epochs=1)
    assert result.exit_code == 1 and "have changed" in result.stderr


def test_unwritable_checkpoint_is_one_clear_line_and_the_old_one_is_kept(finished: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk."""
    import shutil

    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = (out / "checkpoint.pt").read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from edgeseg.runtime.errors import TrainError\n"
        "from edgeseg.train.run import read_checkpoint, write_checkpoint\n"
        "run = Path(sys.argv[1])\n"
        "checkpoint = read_checkpoint(run)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_checkpoint(run, checkpoint)\n"
        "except TrainError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, timeout=120)
    assert "--resume" in done.stdout and len(done.stdout.splitlines()) == 1, done.stderr
    assert (out / "checkpoint.pt").read_bytes() == before
    assert not [path for path in out.iterdir() if "partial" in path.name]


def test_help_ends_with_an_example() -> None:
    assert "Example: edgeseg train" in CliRunner().invoke(main, ["train", "--help"]).output
