"""The wheel, installed as people install it: alone, with [desktop], beside the system's OpenCV, for a Jetson."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PORTIONS = ("train", "export", "runtime", "benchmarks", "deploy")
CONSTRAINTS = ROOT / "constraints.txt"
SYSTEM_PYTHON = Path("/usr/bin/python3")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

# A shell's own settings must not reach the environments under test.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def execute(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=CLEAN, cwd=cwd, check=False
    )


def succeed(*command: str | Path, cwd: Path | None = None) -> str:
    done = execute(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout


def make_environment(path: Path, python: str | Path, *flags: str) -> Path:
    """Make a virtual environment without its own pip (ours installs into it); returns its interpreter."""
    succeed(python, "-m", "venv", "--without-pip", *flags, path)
    return path / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    succeed(*PIP, "--python", python, "install", "--quiet", *what)


def importable(python: Path, *modules: str) -> set[str]:
    code = f"import importlib.util as u; print(*[m for m in {modules} if u.find_spec(m)])"
    return set(succeed(python, "-c", code).split())


def pins(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where there is no package registry to install from."""
    folder = tmp_path_factory.mktemp("registry")
    done = execute(*PIP, "download", "--quiet", "--no-deps", "--no-cache-dir", "--retries=1", "--dest", folder, "mdurl")
    if done.returncode != 0:
        pytest.skip("no package registry can be reached")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    succeed(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def desktop(registry: None, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with `edgeseg[desktop]`."""
    python = make_environment(tmp_path_factory.mktemp("desktop") / "venv", sys.executable)
    install(python, "-c", CONSTRAINTS, f"{wheel}[desktop]")
    return python


@pytest.fixture(scope="session")
def plain(registry: None, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with `edgeseg` alone."""
    python = make_environment(tmp_path_factory.mktemp("plain") / "venv", sys.executable)
    install(python, "-c", CONSTRAINTS, wheel)
    return python


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of plain colour: CamVid's sky (128, 128, 128)."""
    path = tmp_path_factory.mktemp("clip") / "sky.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 120))
    for _ in range(12):
        writer.write(np.full((120, 160, 3), 128, np.uint8))
    writer.release()
    return path


def assert_runs(python: Path, bundle: Path, clip: Path, folder: Path) -> None:
    """Run `bundle` over the clip with the command installed beside `python`; every pixel of it is sky."""
    report = folder / "report.json"
    masks = folder / "masks"
    edgeseg = python.with_name("edgeseg")
    succeed(edgeseg, "run", bundle, "--source", clip, "--sink", f"masks:{masks}", "--json", report, cwd=folder)
    assert json.loads(report.read_text())["frames"] == 12
    written = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(masks.iterdir())]
    assert len(written) == 12
    assert all(mask is not None and mask.shape == (120, 160) and not mask.any() for mask in written)


def packaged_files() -> Iterator[str]:
    """What git would commit under the portions, as a wheel names it."""
    listed = succeed("git", "ls-files", "--cached", "--others", "--exclude-standard", *PORTIONS, cwd=ROOT)
    for name in listed.splitlines():
        portion, _, inside = name.partition("/")
        if inside.startswith("edgeseg/") and (ROOT / portion / inside).is_file():
            yield inside


def test_wheel_holds_the_five_portions_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(packaged_files())
    for portion in PORTIONS:
        assert {f"edgeseg/{portion}/__init__.py", f"edgeseg/{portion}/py.typed"} <= set(names)
    assert "edgeseg/__init__.py" not in names
    assert any(re.fullmatch(r"edgeseg/runtime/models/[^/]+/manifest\.json", name) for name in names)


def test_plain_install_brings_no_opencv_engine_or_torch(plain: Path) -> None:
    assert importable(plain, "edgeseg.runtime", "numpy", "cv2", "onnxruntime", "torch", "onnx") == {
        "edgeseg.runtime",
        "numpy",
    }
    assert "Commands:" in succeed(plain.with_name("edgeseg"), "--help")


def test_plain_install_names_the_profile_that_a_command_needs(plain: Path) -> None:
    for command, profile in (("run", "desktop"), ("train", "train")):
        done = execute(plain.with_name("edgeseg"), command, "anything")
        assert done.returncode == 1
        assert f"pip install 'edgeseg[{profile}]'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_desktop_install_runs_a_bundle_without_torch(
    desktop: Path, tiny_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    assert importable(desktop, "cv2", "onnxruntime", "torch", "onnx") == {"cv2", "onnxruntime"}
    assert_runs(desktop, tiny_bundle, clip, tmp_path)


def test_runs_with_the_systems_opencv_and_numpy_and_leaves_them_in_place(
    registry: None, wheel: Path, tiny_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    which = "import cv2, numpy; print(cv2.__version__, cv2.__file__, numpy.__version__, numpy.__file__)"
    systems = execute(SYSTEM_PYTHON, "-c", which)
    if systems.returncode != 0:
        pytest.skip(f"{SYSTEM_PYTHON} has no cv2: apt-get install python3-opencv")
    python = make_environment(tmp_path / "venv", SYSTEM_PYTHON, "--system-site-packages")
    # constraints.txt would replace the system's numpy; the rest of it holds here too
    others = tmp_path / "constraints.txt"
    others.write_text("".join(f"{pin}\n" for pin in pins(CONSTRAINTS) if pin.name != "numpy"))
    install(python, "-c", others, wheel, "onnxruntime")
    assert succeed(python, "-c", which) == systems.stdout
    assert_runs(python, tiny_bundle, clip, tmp_path)


def test_constraints_pin_everything_that_dev_brings() -> None:
    pinned = {canonicalize_name(pin.name): pin for pin in pins(CONSTRAINTS) if not pin.marker or pin.marker.evaluate()}
    seen: set[tuple[str, str]] = set()
    waiting = [("edgeseg", "dev")]
    while waiting:
        name, extra = waiting.pop()
        # torch from PyPI names its CUDA libraries one by one, each at one release
        if (name, extra) in seen or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        seen.add((name, extra))
        for line in metadata.requires(name) or []:
            needs = Requirement(line)
            if needs.marker is None or needs.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needs.name), wanted) for wanted in ("", *needs.extras)]
    brought = {name for name, _ in seen} - {"edgeseg"}
    assert len(brought) > 20
    assert sorted(brought - set(pinned)) == []
    assert all(str(pin.specifier).startswith("==") for pin in pins(CONSTRAINTS))


@pytest.mark.parametrize(("lock", "python"), [("jetpack6", "3.10"), ("jetpack7", "3.12")])
def test_jetson_lock_is_complete_and_installs_there(registry: None, tmp_path: Path, lock: str, python: str) -> None:
    path = ROOT / "deploy" / "locks" / f"{lock}.txt"
    locked = {canonicalize_name(pin.name): pin for pin in pins(path)}
    for line in metadata.requires("edgeseg") or []:
        needs = Requirement(line)
        device = {"python_version": python, "python_full_version": f"{python}.0", "extra": "jetson"}
        if needs.marker is None or needs.marker.evaluate(device):
            (version,) = (specifier.version for specifier in locked[canonicalize_name(needs.name)].specifier)
            assert needs.specifier.contains(version), line

    report = tmp_path / "report.json"
    platforms = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
    succeed(
        *(*PIP, "install", "--quiet", "--dry-run", "--report", report, "--target", tmp_path / "target"),
        *(f"--platform={platform}" for platform in platforms),
        *("--python-version", python, "--only-binary=:all:", "-r", path),
    )
    chosen = {canonicalize_name(item["metadata"]["name"]) for item in json.loads(report.read_text())["install"]}
    assert chosen == set(locked)
