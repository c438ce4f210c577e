"""Every command that README and the pages of docs/ show is run here."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from edgeseg.runtime.cli import main
from edgeseg.runtime.street import StreetCamera

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/data.md",
    "docs/train.md",
    "docs/evaluate.md",
    "docs/robustness.md",
    "docs/export.md",
    "docs/quantisation.md",
    "docs/check.md",
    "docs/run.md",
    "docs/cameras.md",
    "docs/health.md",
    "docs/bench.md",
    "docs/baseline.md",
    "docs/deploy.md",
    "docs/doctor.md",
    "docs/soak.md",
    "docs/predict.md",
    "docs/profile.md",
    "docs/scaling.md",
    "docs/accept.md",
)

# Small enough for a test: typed flags win over these, so the pages' commands run as they stand.
SETTINGS = """
[accept]
duration = 0.5
[demo]
seconds = 0.5
[export]
max-drop = 100
max-class-drop = 100
[soak]
duration = "6s"
[train]
epochs = 1
size = "96x64"
batch = 5
"""


def shown_commands(page: str) -> list[str]:
    """Lines of a page's `sh` blocks that call edgeseg; README's two set-up lines are run by .ci/run."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("edgeseg ")]


def edgeseg(words: list[str]) -> None:
    result = CliRunner().invoke(main, ["--config", "small.toml", *words])
    assert result.exit_code == 0, f"edgeseg {shlex.join(words)}\n{result.output}"


@pytest.fixture
def desk(street_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages assume: a dataset and a clip."""
    (tmp_path / "my-dataset").symlink_to(street_dataset)
    (tmp_path / "wheels").mkdir()
    camera = StreetCamera(size_hw=(120, 160))
    writer = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (160, 120))
    for index in range(5):
        writer.write(camera.render(index)[0])
    writer.release()
    (tmp_path / "small.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_shows_runs(desk: Path, tiny_bundle: Path, page: str) -> None:
    if page in ("docs/export.md", "docs/quantisation.md"):
        edgeseg(["train", "my-dataset", "--out", "runs/yard"])
    if page in (
        "docs/accept.md",
        "docs/check.md",
        "docs/evaluate.md",
        "docs/robustness.md",
        "docs/run.md",
        "docs/cameras.md",
        "docs/health.md",
        "docs/bench.md",
        "docs/baseline.md",
        "docs/profile.md",
        "docs/scaling.md",
        "docs/deploy.md",
    ):
        shutil.copytree(tiny_bundle, "yard")
    commands = shown_commands(page)
    assert commands
    for command in commands:
        edgeseg(shlex.split(command)[1:])


def test_pages_that_are_linked_exist() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
