"""What the runtime's tests share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest

DatasetMaker = Callable[..., Path]


@pytest.fixture
def make_dataset(tmp_path: Path) -> DatasetMaker:
    """Write a dataset of `files` (path to bytes, or to an array that is encoded by the path's ending).

    Its split `all` pairs the folders `images` and `masks`. Returns its folder.
    """

    def make(
        files: Mapping[str, Any],
        *,
        classes: tuple[str, ...] = ("ground", "crate", "tree"),
        palette: tuple[tuple[int, int, int], ...] = ((128, 64, 128), (0, 0, 142), (107, 142, 35)),
        ignore_index: int = 255,
        folder: str = "yard",
        more: str = "",
    ) -> Path:
        root = tmp_path / folder
        for name in ("images", "masks"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content if isinstance(content, bytes) else cv2.imencode(path.suffix, content)[1].tobytes()
            path.write_bytes(data)
        text = (
            f'name = "yard"\nignore_index = {ignore_index}\nclasses = {json.dumps(classes)}\n'
            f'palette = {json.dumps(palette)}\n[splits.all]\nimages = "images"\nmasks = "masks"\n{more}'
        )
        (root / "dataset.toml").write_text(text, encoding="utf-8")
        return root

    return make
