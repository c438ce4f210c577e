"""Files and folders appear whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.runtime.files import sha256_file, whole_file, whole_folder, write_json


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == before and _names(tmp_path) == ["a.json"]


def test_partial_file_keeps_the_ending(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.png") as partial:
        assert partial.suffix == ".png" and partial.parent == tmp_path
        partial.write_bytes(b"x")


def test_folder_is_replaced_as_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with whole_folder(tmp_path / "b") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / content).write_text(content)
    assert [p.name for p in (tmp_path / "b" / "deep").iterdir()] == ["new"]
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "b") as folder:
        (folder / "deep").mkdir()
        raise RuntimeError
    assert [p.name for p in (tmp_path / "b" / "deep").iterdir()] == ["new"] and _names(tmp_path) == ["b"]


def test_kill_in_the_middle_never_leaves_half_a_file_under_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old" * 1000)
    code = (
        "import os, sys, pathlib\n"
        "from edgeseg.runtime.files import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_bytes(b'new')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old" * 1000


def test_digest_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
