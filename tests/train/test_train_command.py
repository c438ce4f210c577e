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
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.errors import TrainError
from edgeseg.train.borrowed import load_start
from edgeseg.train.config import TrainConfig
from edgeseg.train.network import SegmentationNetwork
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


@pytest.mark.parametrize(("batch", "flags", "epochs"), [(4, (), 267), (1, (), 80), (4, ("--epochs", "30"), 30)])
def test_few_images_get_more_epochs_unless_told(
    street_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, flags: tuple[str], epochs: int
) -> None:
    """Ten pictures are three steps of four: 800 steps take 267 epochs."""

    def tell(dataset: Dataset, config: TrainConfig, *ignored: Any, **also: Any) -> None:
        raise TrainError(f"told {config.epochs} epochs")

    monkeypatch.setattr("edgeseg.train.commands.train_run", tell)
    words = ["train", str(street_dataset), "--out", str(tmp_path / "run"), *TINY, "--batch", str(batch), *flags]
    result = CliRunner().invoke(main, words)
    assert f"told {epochs} epochs" in str(result.output) + str(result.exception)


def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    street_dataset: Path, tmp_path: Path, finished: Path
) -> None:
    """Killed without warning in the second epoch; the first epoch's checkpoint is whole and the run goes on from it."""
    out = tmp_path / "broken"
    code = (
        "import dataclasses, os, edgeseg.train.commands as c\n"
        "real = c.train_run\n"
        "def dying(*a, watcher, **k):\n"
        "    seen = []\n"
        "    def count():\n"
        "        seen.append(1)\n"
        "        if len(seen) == 5: os.kill(os.getpid(), 9)\n"
        "    return real(*a, watcher=dataclasses.replace(watcher, on_batch=count), **k)\n"
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


@pytest.mark.parametrize("whole_group", [False, True])  # as a service manager stops it: its loader's processes too
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_resume_and_leaves_no_partial_file(
    street_dataset: Path, tmp_path: Path, asked: signal.Signals, whole_group: bool
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
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            (os.killpg if whole_group else os.kill)(process.pid, asked)
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


def test_teacher_that_sees_crops_larger_gives_other_answers(
    street_dataset: Path, tmp_path: Path, finished: Path
) -> None:
    weights = []
    for scale in ("1", "2"):
        out = tmp_path / scale
        flags = ("--teacher", str(finished), "--teacher-scale", scale)
        assert _train(street_dataset, out, *flags, epochs=1).exit_code == 0
        weights.append(load_run(out).weights)
    assert weights[0] != weights[1]


def test_run_that_starts_from_another_begins_with_its_weights_and_remembers_it(
    street_dataset: Path, tmp_path: Path, finished: Path
) -> None:
    out = tmp_path / "tuned"
    # So small a rate that nothing moves: what comes out is what was taken over.
    result = _train(
        street_dataset, out, "--start-from", str(finished), "--learning-rate", "1e-6", "--no-offsets", epochs=1
    )
    assert result.exit_code == 0, result.output
    began, tuned = load_start(finished), load_start(out)
    assert load_run(out).metadata["config"]["start"] == began.weights
    frozen = [name for name in began.state if name.endswith("weight") and began.state[name].ndim == 4]
    assert all(torch.allclose(began.state[name], tuned.state[name], atol=1e-3) for name in frozen)
    alone = _train(street_dataset, out, "--learning-rate", "1e-6", "--no-offsets", "--resume", epochs=1)
    assert alone.exit_code == 1 and "start is None" in alone.output


def test_run_of_another_size_lends_what_fits(street_dataset: Path, tmp_path: Path, finished: Path) -> None:
    out = tmp_path / "nano"
    flags = ("--start-from", str(finished), "--network", "nano", "--learning-rate", "1e-6", "--no-offsets")
    assert _train(street_dataset, out, *flags, epochs=1).exit_code == 0
    began, tuned = load_start(finished).state, load_start(out).state
    # nano's first stage is the third: its dense stem stands in for two.
    for ours, theirs in ((0, 2), (1, 3), (2, 4)):
        layer = "backbone.stages.{}.0.layers.0.0.weight"
        assert torch.allclose(began[layer.format(theirs)], tuned[layer.format(ours)], atol=1e-3)
    assert began["auxiliary.weight"].shape != tuned["auxiliary.weight"].shape


def test_offsets_are_found_at_the_end_and_stand_in_the_classifiers_bias(street_dataset: Path, tmp_path: Path) -> None:
    # A network that knows streets, on pictures much smaller than it learned from, and at a rate at which nothing moves:
    # one of two short epochs may say a single class everywhere, which no offset mends.
    flags = ("--network", "nano", "--start-from", "street-nano", "--learning-rate", "1e-6")
    for name, flag in (("shifted", "--offsets"), ("plain", "--no-offsets")):
        result = _train(street_dataset, tmp_path / name, *flags, flag)
        assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "shifted" / "metrics.json").read_text())["history"]
    assert "offsets" not in rows[0] and any(rows[1]["offsets"])
    shifted, plain = (load_start(tmp_path / name).state["classifier.bias"] for name in ("shifted", "plain"))
    offsets = torch.tensor(rows[1]["offsets"]).repeat_interleave(4)
    assert torch.allclose(shifted - plain, offsets, atol=1e-3)


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


@pytest.fixture(scope="module")
def hundred(street_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ten training pairs eleven times over, by links; one picture is cut short."""
    folder = tmp_path_factory.mktemp("hundred") / "streets"
    shutil.copytree(street_dataset, folder)
    for kind in ("images", "masks"):
        for path in sorted((folder / kind / "train").iterdir()):
            for copy in range(10):
                (folder / kind / "train" / f"{path.stem}-{copy}.png").symlink_to(path)
    bad = folder / "images" / "train" / "05-3.png"
    bad.unlink()
    bad.write_bytes((folder / "images" / "train" / "05.png").read_bytes()[:300])
    return folder


def test_unreadable_picture_is_named_and_passed_over_the_same_with_any_workers_and_no_cache(
    hundred: Path, tmp_path: Path
) -> None:
    rows = []
    for name, flags in (("one", ("--workers", "1")), ("two", ("--workers", "2", "--no-cache"))):
        out = tmp_path / name
        result = _train(hundred, out, *flags, "--batch", "37", "--network", "nano", epochs=1)
        assert result.exit_code == 0, result.output
        assert "passed over 1 of 11" in result.output and "05-3.png" in result.output
        rows.append(json.loads((out / "metrics.json").read_text())["history"][0])
        assert (
            len(rows[-1].pop("unreadable")) == 1 and 0 <= rows[-1].pop("waited_seconds") <= rows[-1].pop("seconds") + 1
        )
    assert rows[0] == rows[1]


def test_training_ends_when_more_than_one_in_a_hundred_cannot_be_read(hundred: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(hundred, folder, symlinks=True)
    for name in ("02-1", "03-7"):
        (folder / "images" / "train" / f"{name}.png").unlink()
        (folder / "images" / "train" / f"{name}.png").write_bytes(b"no picture")
    result = _train(folder, tmp_path / "run", "--workers", "0", epochs=1)
    assert result.exit_code == 1 and len(result.stderr.strip().splitlines()) == 1
    assert "2 of 11" in result.stderr and "pairs cannot be read" in result.stderr and "at most 1 %" in result.stderr


@pytest.mark.parametrize("flags", [("--precision", "bf16", "--no-channels-last"), ("--precision", "fp16")])
def test_half_precision_learns_and_is_part_of_the_run(
    street_dataset: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """fp16's gradients are scaled, and the scale is kept in the checkpoint."""
    out, flags = (
        tmp_path / "run",
        (*flags, "--network", "nano", "--workers", "0", "--device", "cpu", "--select", "none"),
    )
    result = _train(street_dataset, out, *flags)
    assert result.exit_code == 0, result.output
    checkpoint = read_checkpoint(out)
    assert checkpoint.history[1]["loss"] < checkpoint.history[0]["loss"]
    assert bool(checkpoint.scaler) == ("fp16" in flags)
    assert {value.dtype for value in checkpoint.network.values() if value.is_floating_point()} == {torch.float32}
    other = _train(street_dataset, out, *flags, "--precision", "fp32", "--resume")
    assert other.exit_code == 1 and "precision is fp32" in other.stderr


def test_gpu_that_is_not_there_is_one_line(street_dataset: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = _train(street_dataset, tmp_path / "run", "--device", "cuda")
    assert result.exit_code == 1 and "--device cpu" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_network_of_a_file_is_trained_and_loaded_again(street_dataset: Path, tmp_path: Path) -> None:
    size = tmp_path / "thin.toml"
    size.write_text("[network]\nlite = 0\nstages = 5\nwidth = 16\nfine = 16\ndense_stem = [16, 32]\n")
    result = _train(street_dataset, tmp_path / "run", "--network", str(size), "--workers", "0", epochs=1)
    assert result.exit_code == 0, result.output
    loaded = load_run(tmp_path / "run")
    assert loaded.metadata["config"]["network"]["width"] == 16
    assert isinstance(loaded.network, SegmentationNetwork) and loaded.network.classifier.in_channels == 16
    other = _train(street_dataset, tmp_path / "run", "--network", "nano", "--resume", epochs=1)
    assert other.exit_code == 1 and "network is nano" in other.stderr


def test_unknown_network_is_wrong_usage(street_dataset: Path, tmp_path: Path) -> None:
    result = _train(street_dataset, tmp_path / "run", "--network", "huge")
    assert result.exit_code == 2 and "nano, small, medium" in result.stderr


def test_help_ends_with_an_example() -> None:
    assert "Example: edgeseg train" in CliRunner().invoke(main, ["train", "--help"]).output
