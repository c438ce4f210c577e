"""The measurement of how quickly samples are made."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from edgeseg.train.loading import TURN, loading, time_in_turns


def test_sides_take_turns_on_the_same_samples() -> None:
    asked: list[tuple[str, int]] = []
    sides = {name: lambda number, name=name: asked.append((name, number)) for name in ("one", "other")}
    found = time_in_turns(sides, count=3, rounds=5)
    assert {name: len(turns) for name, turns in found.items()} == {"one": 5, "other": 5}
    numbers = {name: [number for side, number in asked if side == name] for name in sides}
    assert numbers["one"] == numbers["other"] and set(numbers["one"]) == {0, 1, 2}
    assert [side for side, _ in asked[: 2 * TURN]] == ["one"] * TURN + ["other"] * TURN


def test_command_gives_seconds_and_ratios(street_dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "loading.json"
    result = CliRunner().invoke(loading, [str(street_dataset), "--rounds", "5", "--json", str(path)])
    assert result.exit_code == 0, result.output
    document = json.loads(path.read_text())
    assert set(document["sample_seconds"]) == {
        f"{what}, {how}" for what in ("read", "sample") for how in ("decoded", "cached")
    }
    assert set(document["ratios"]) == {f"{what}: decoded over cached" for what in ("read", "sample")}
    assert all(value > 0 for value in (*document["sample_seconds"].values(), *document["ratios"].values()))
