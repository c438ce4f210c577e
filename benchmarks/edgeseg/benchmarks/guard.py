"""Has a change made a hot path slower? Two states of the code, in turns, on whatever machine there is.

    python -m edgeseg.benchmarks.guard              the working tree against HEAD
    python -m edgeseg.benchmarks.guard --base v0.1.0

The other state is unpacked into a folder of its own, and each side runs in processes of its own with its own code
before everything else on the path. A round is one turn of each and the order changes from round to round, so what
slows the machine meets both: absolute times are not kept and not compared with any from another day.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import numpy as np
from rich.table import Table
from rich.text import Text

from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.process import Process, start_command
from edgeseg.benchmarks.statistics import Estimate, estimate_interleaved_ratio
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import EdgesegError

HOT_PATHS = Path(__file__).with_name("hot_paths.py")
LEAST_ROUNDS = 20
"""With fewer, intervals hold the truth less often than they say."""
SLICES = 3
"""A turn's slices; the first is not counted: it finds the caches full of the other's data."""
LIMIT_SHARE = 0.05
PORTIONS = ("train", "export", "runtime", "benchmarks", "deploy")


@contextmanager
def unpacked(repository: Path, revision: str) -> Iterator[tuple[Path, str]]:
    """Yield a folder with `revision` of `repository`, and its commit. Raises `BenchmarkError` if there is none."""
    commit = _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not commit:
        raise BenchmarkError(
            f"{repository} has no revision {revision}", expected="a commit, branch or tag", fix="name another --base"
        )
    with tempfile.TemporaryDirectory(prefix="edgeseg-guard-") as scratch:
        # No worktree of git's: a guard that is killed would leave it in the repository.
        packed, folder = Path(scratch) / "base.tar", Path(scratch) / "base"
        _git(repository, "archive", "--format=tar", f"--output={packed}", commit)
        with tarfile.open(packed) as archive:
            if hasattr(tarfile, "data_filter"):  # from Python 3.10.12 on
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(folder)
        yield folder, commit


def _git(repository: Path, *words: str) -> str:
    """Return what git says; empty if it failed without a word. Raises `BenchmarkError` with its complaint."""
    git = shutil.which("git")
    if git is None:
        raise BenchmarkError("git is missing", fix="apt-get install git")
    done = subprocess.run([git, "-C", str(repository), *words], capture_output=True, text=True, check=False)
    if done.returncode and done.stderr:
        raise BenchmarkError(f"git {words[0]}: {done.stderr.strip().splitlines()[-1]}", fix="see to it and try again")
    return done.stdout.strip()


@contextmanager
def start_side(root: Path, paths: Path) -> Iterator[Process]:
    """Start a process that runs the hot paths of file `paths` with the code below `root`."""
    folders = [str(root / portion) for portion in PORTIONS if (root / portion).is_dir()]
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*folders, *([before] if before else [])])
    worker = Path(__file__).with_name("guard_worker.py")
    command = [sys.executable, str(worker), str(paths), str(root)]
    with start_command(str(root), command, environment={**os.environ, "PYTHONPATH": path}) as process:
        yield process


def compare_path(name: str, base: Process, tree: Process, *, rounds: int) -> Estimate:
    """Return the time of hot path `name` in `tree` over that in `base`, by `rounds` turns of each."""
    counts = [process.do("calibrate", name=name)["count"] for process in (base, tree)]
    times: tuple[list[list[float]], list[list[float]]] = ([], [])
    sides = [(0, base), (1, tree)]
    for number in range(rounds):
        for index, process in sides if number % 2 == 0 else reversed(sides):
            # Both do as much work in a slice, so that what is counted is the same.
            found = process.do("time", name=name, count=max(counts), slices=SLICES)
            times[index].append(found["ms"][1:])
    ratio = estimate_interleaved_ratio(np.array(times[0], np.float32), np.array(times[1], np.float32))
    if ratio is None:
        raise BenchmarkError(f"{rounds} rounds say nothing", expected=f"at least {LEAST_ROUNDS}")
    return ratio


def judge(ratio: Estimate, limit_share: float) -> str:
    """Return `slower`, `faster` or `no worse than` what the interval shows."""
    if ratio.excludes(1, by=limit_share):
        return "slower" if ratio.value > 1 else "faster"
    return f"no change of more than {limit_share:.0%} is shown"


@click.command(epilog="Example: python -m edgeseg.benchmarks.guard --base HEAD~1")
@click.option("--base", default="HEAD", show_default=True, metavar="REVISION", help="What to compare with.")
@click.option(
    "--repo",
    "repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The working tree that is compared; default the folder that this is called in.",
)
@click.option(
    "--paths",
    "paths_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=HOT_PATHS,
    help="A Python file whose PATHS maps names to functions that prepare something and return what to call.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Look at this hot path only. May be repeated.")
@click.option("--rounds", type=click.IntRange(min=LEAST_ROUNDS), default=40, show_default=True, metavar="N")
@click.option(
    "--limit",
    "limit_percent",
    type=click.FloatRange(min=0),
    default=100 * LIMIT_SHARE,
    show_default=True,
    metavar="PERCENT",
    help="Exit with 1 if a path is slower by more than this, its whole interval considered.",
)
@json_option
def guard(
    base: str,
    repository: Path,
    paths_file: Path,
    only: Sequence[str],
    rounds: int,
    limit_percent: float,
    json_path: Path | None,
) -> None:
    """Compare the working tree's hot paths with those of another revision, in turns.

    On a machine with other work: both meet it alike. Not for CI, whose machines change from run to run.
    """
    root = Path(_git(repository, "rev-parse", "--show-toplevel") or repository)
    found: dict[str, Estimate] = {}
    with ExitStack() as stack:
        folder, commit = stack.enter_context(unpacked(root, base))
        sides = [stack.enter_context(start_side(side, paths_file.resolve())) for side in (folder, root)]
        absent = sorted(set(sides[0].first["absent"]) | set(sides[1].first["absent"]))
        names = [name for name in sides[0].first["names"] if name not in absent and name in (only or [name])]
        if not names:
            raise BenchmarkError(f"no hot path of {paths_file.name} can run on both sides", fix="name another --base")
        with progress("guard", total=len(names)) as advance:
            for name in names:
                found[name] = compare_path(name, sides[0], sides[1], rounds=rounds)
                advance()
    share = limit_percent / 100
    _print(found, absent, commit, share)
    write_document(
        json_path,
        "guard",
        base=commit,
        rounds=rounds,
        limit_percent=limit_percent,
        ratios={name: {**ratio.__dict__, "verdict": judge(ratio, share)} for name, ratio in found.items()},
        absent=absent,
        environment=environment(),
    )
    slower = [name for name, ratio in found.items() if judge(ratio, share) == "slower"]
    if slower:
        raise BenchmarkError(
            f"slower than {commit[:9]}: {', '.join(slower)}", expected=f"within {limit_percent:g} %", fix="see why"
        )


def _print(found: dict[str, Estimate], absent: Sequence[str], commit: str, limit_share: float) -> None:
    table = Table(title=Text(f"Time of the working tree over that of {commit[:9]}"), title_justify="left")
    for column in ("hot path", "ratio of medians", "95 % interval", ""):
        table.add_column(column)
    for name, ratio in found.items():
        table.add_row(name, f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", judge(ratio, limit_share))
    console.print(table)
    if absent:
        console.print(f"not on both sides: {', '.join(absent)}", markup=False)


def main() -> None:
    """Run the command; a user's problem is one line and exit status 1."""
    try:
        guard.main(prog_name="python -m edgeseg.benchmarks.guard")
    except EdgesegError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
