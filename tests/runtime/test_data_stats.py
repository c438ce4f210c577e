from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeseg.runtime.cli import main
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.dataset_stats import gather

DatasetMaker = Callable[..., Path]
RNG = np.random.default_rng(0)


@pytest.fixture
def odd(make_dataset: DatasetMaker) -> Path:
    """Three sizes, 16 bits, grey and colour, void, a class that is nowhere, an unreadable image and odd names."""
    return make_dataset(
        {
            "images/a.png": RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8),
            "masks/a.png": np.repeat([0, 1], 12).reshape(4, 6).astype(np.uint8),
            "images/b.png": RNG.integers(0, 60000, (8, 2)).astype(np.uint16),
            "masks/b.png": np.full((8, 2), 255, np.uint8),
            "images/<script>.png": RNG.integers(0, 256, (2, 2)).astype(np.uint8),
            "masks/<script>.png": np.zeros((2, 2), np.uint8),
            "images/d.png": b"",
            "masks/d.png": np.zeros((2, 2), np.uint8),
        },
        classes=("ground", "<b>crate</b>", "ж"),
    )


def test_figures_are_those_of_the_files(odd: Path, tmp_path: Path) -> None:
    report = tmp_path / "stats.json"
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["data", "stats", str(odd), "--json", str(report)])
    assert result.exit_code == 0, result.output
    document = json.loads(report.read_text())
    assert document["schema"] == "edgeseg/data-stats/1"
    split = document["splits"]["all"]
    assert (split["images"], split["unreadable"]) == (3, 1)
    assert {(s["width"], s["height"]): s["images"] for s in split["sizes"]} == {(6, 4): 1, (2, 8): 1, (2, 2): 1}
    assert split["kinds"] == {"8-bit colour": 1, "16-bit grey": 1, "8-bit grey": 1}
    assert split["per_class"] == {
        "ground": {"pixels": 16, "images": 2, "percent": pytest.approx(57.1429)},
        "<b>crate</b>": {"pixels": 12, "images": 1, "percent": pytest.approx(42.8571)},
        "ж": {"pixels": 0, "images": 0, "percent": 0},
    }
    assert split["void_percent"] == pytest.approx(100 * 16 / 44, abs=1e-3)
    assert "57.14 (2)" in result.output and "1 cannot be read" in result.output


def test_page_is_whole_and_escapes_names(odd: Path, tmp_path: Path) -> None:
    page = tmp_path / "stats.html"
    result = CliRunner().invoke(main, ["data", "stats", str(odd), "--html", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "&lt;b&gt;crate&lt;/b&gt;" in text and "<b>crate" not in text and "<script>" not in text
    assert text.count("data:image/jpeg;base64,") == 2 * 3
    assert "http" not in text and "nan" not in text and "$" not in text
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".html"] == ["stats.html"]


def test_split_with_nothing_labelled_has_no_shares(make_dataset: DatasetMaker) -> None:
    folder = make_dataset(
        {"images/a.png": np.zeros((2, 2, 3), np.uint8), "masks/a.png": np.full((2, 2), 255, np.uint8)}
    )
    stats = gather(load_dataset(folder), ["all"])["all"]
    assert stats.shares == {} and stats.void == 100
    assert "percent" not in stats.document()["per_class"]["ground"]


def test_page_that_cannot_be_written_is_one_line(odd: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["data", "stats", str(odd), "--html", str(tmp_path / "no" / "x.html")])
    assert result.exit_code == 1
    assert "cannot write" in result.output and len(result.output.splitlines()) == 1
