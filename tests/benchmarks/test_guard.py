"""The guard finds a slowdown that was planted in a small repository, and none where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.guard import guard
from edgeseg.benchmarks.hot_paths import PATHS

WORK = "def work():\n    return sum(range({count}))\n"
HOT_PATHS = """
def steady():
    from edgeseg.runtime.thing import work
    return work

def young():
    from edgeseg.runtime.thing import newer
    return newer

PATHS = {"steady": steady, "young": young}
"""


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose package takes edgeseg's name, with one commit."""
    folder = tmp_path / "repository"
    package = folder / "runtime" / "edgeseg" / "runtime"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "thing.py").write_text(WORK.format(count=2000))
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    (tmp_path / "paths.py").write_text(HOT_PATHS)
    return folder


def run_guard(repository: Path, *words: str | Path) -> Result:
    order = ["--repo", repository, "--paths", repository.parent / "paths.py", "--rounds", "20", *words]
    return CliRunner().invoke(guard, [str(word) for word in order])


def test_planted_slowdown_is_found_and_one_side_s_path_left_out(repository: Path, tmp_path: Path) -> None:
    thing = repository / "runtime" / "edgeseg" / "runtime" / "thing.py"
    thing.write_text(WORK.format(count=4000) + "\ndef newer():\n    return 1\n")
    result = run_guard(repository, "--json", tmp_path / "guard.json")
    assert isinstance(result.exception, BenchmarkError)
    assert "slower than" in str(result.exception) and "steady" in str(result.exception)
    found = json.loads((tmp_path / "guard.json").read_text())
    assert found["schema"] == "edgeseg/guard/1" and found["absent"] == ["young"]
    # Twice the work, on a machine that may be busy.
    assert found["ratios"]["steady"]["low"] < 2.5 and found["ratios"]["steady"]["high"] > 1.7
    assert found["ratios"]["steady"]["verdict"] == "slower"


def test_same_code_is_no_slower_than_itself_and_nothing_is_left_behind(repository: Path, tmp_path: Path) -> None:
    before = set(repository.rglob("*"))
    result = run_guard(repository, "--limit", "50", "--json", tmp_path / "guard.json")
    assert result.exit_code == 0, result.output
    ratio = json.loads((tmp_path / "guard.json").read_text())["ratios"]["steady"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"] and 0.5 < ratio["value"] < 2
    after = {path for path in repository.rglob("*") if "__pycache__" not in str(path)}
    assert after <= before


def test_faster_code_is_no_failure(repository: Path, tmp_path: Path) -> None:
    (repository / "runtime" / "edgeseg" / "runtime" / "thing.py").write_text(WORK.format(count=200))
    result = run_guard(repository, "--json", tmp_path / "guard.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "guard.json").read_text())["ratios"]["steady"]["verdict"] == "faster"


def test_revision_that_is_not_there_is_one_line(repository: Path) -> None:
    result = run_guard(repository, "--base", "v9")
    assert isinstance(result.exception, BenchmarkError)
    assert "no revision v9" in str(result.exception)


def test_code_from_elsewhere_is_not_measured_for_the_side_s_own(repository: Path) -> None:
    # Without a portion of its own, a side would get the installed edgeseg.
    git(repository, "mv", "runtime", "sources")
    git(repository, "commit", "-q", "-m", "second")
    result = run_guard(repository)
    assert isinstance(result.exception, BenchmarkError)
    assert "no hot path" in str(result.exception) or "ended with status 1" in str(result.exception)


@pytest.mark.parametrize("name", PATHS)
def test_every_hot_path_can_be_called(name: str) -> None:
    PATHS[name]()()


def test_guard_is_a_program(repository: Path) -> None:
    order = [sys.executable, "-m", "edgeseg.benchmarks.guard", "--repo", str(repository), "--base", "v9"]
    done = subprocess.run(order, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
