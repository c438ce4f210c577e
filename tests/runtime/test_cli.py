from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgeseg.runtime import cli
from edgeseg.runtime.cli import COMMANDS, Entry, main
from edgeseg.runtime.commands.common import json_option, progress, write_document
from edgeseg.runtime.errors import BundleError, EdgesegError

HEAVY = {"numpy", "cv2", "torch", "onnx", "onnxruntime", "matplotlib", "pydantic", "rich"}

Install = Callable[[click.Command], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a command in the place of `edgeseg run`."""

    def put(command: click.Command) -> None:
        module = types.ModuleType("a_command")
        module.__dict__["command"] = command
        monkeypatch.setitem(sys.modules, "a_command", module)
        monkeypatch.setitem(COMMANDS, "run", Entry("a_command:command", "A command.", "desktop"))

    return put


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


def echoing() -> click.Command:
    @click.command()
    @click.option("--max-frames", type=int, default=1)
    @click.option("--sink", "sinks", multiple=True)
    @click.option("--loop/--no-loop", default=False)
    @json_option
    def command(max_frames: int, sinks: Sequence[str], loop: bool, json_path: Path | None) -> None:
        click.echo(f"{max_frames} {list(sinks)} {loop} {json_path}")

    return command


def test_help_lists_every_command_with_its_line() -> None:
    lines = {line.strip() for line in invoke("--help").output.splitlines()}
    for name, entry in COMMANDS.items():
        assert any(line.startswith(f"{name} ") and line.endswith(entry.help) for line in lines), name


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    code = (
        f"import sys; from edgeseg.runtime.cli import main; main({args}, standalone_mode=False);"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_module_can_be_run_in_place_of_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeseg.runtime", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"edgeseg {metadata.version('edgeseg')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_and_ends_with_an_example(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert "edgeseg " in result.output.rstrip().splitlines()[-1]
    assert "Example" in result.output


def test_users_problem_is_one_line_and_exit_status_1(install: Install) -> None:
    install(raising(BundleError("model.onnx is missing", expected="the file\nmanifest.json names", fix="export again")))
    result = invoke("run")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "error: model.onnx is missing; expected the file manifest.json names; fix: export again\n"


def test_wrong_usage_is_exit_status_2(install: Install) -> None:
    install(echoing())
    assert invoke("run", "--no-such-flag").exit_code == 2
    assert invoke("no-such-command").exit_code == 2


def test_interrupt_is_one_line_and_exit_status_130(install: Install) -> None:
    install(raising(KeyboardInterrupt()))
    result = invoke("run")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_missing_package_names_the_profile_when_a_command_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wants_torch.py").write_text("import torch.nn\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(COMMANDS, "train", COMMANDS["train"]._replace(where="wants_torch:command"))
    result = invoke("train")
    assert result.exit_code == 1
    assert (
        result.stderr == "error: edgeseg train needs torch, which is not installed; fix: pip install 'edgeseg[train]'\n"
    )


def test_missing_package_names_the_profile_when_a_command_is_under_way(install: Install) -> None:
    install(raising(ModuleNotFoundError("No module named 'cv2'", name="cv2")))
    result = invoke("run")
    assert result.exit_code == 1
    assert "pip install 'edgeseg[desktop]'" in result.stderr
    assert "python3-opencv" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["edgeseg.runtime.misspelt", "misspelt"])
def test_missing_module_that_no_profile_brings_is_not_masked(install: Install, name: str) -> None:
    install(raising(ModuleNotFoundError(f"No module named {name!r}", name=name)))
    result = invoke("run")
    assert isinstance(result.exception, ModuleNotFoundError)


def test_reader_that_goes_away_is_met_with_silence() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input(); from edgeseg.runtime.cli import main; main(['--help'])"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert process.stderr.read() == b""


def test_flag_wins_over_config_which_wins_over_default(install: Install, tmp_path: Path) -> None:
    install(echoing())
    config = tmp_path / "edgeseg.toml"
    assert invoke("run").output == "1 [] False None\n"
    config.write_text(
        '[run]\nmax-frames = 7\nsink = ["null", "images:d"]\nloop = true\njson = "x.json"\n[train]\nany = 1\n'
    )
    assert invoke("--config", config, "run").output == "7 ['null', 'images:d'] True x.json\n"
    result = invoke("--config", config, "run", "--max-frames", "3", "--no-loop", "--sink", "window")
    assert result.output == "3 ['window'] False x.json\n"


def test_config_takes_one_value_for_a_flag_that_may_be_repeated(install: Install, tmp_path: Path) -> None:
    install(echoing())
    (tmp_path / "c.toml").write_text('[run]\nsink = "null"\n')
    assert invoke("--config", tmp_path / "c.toml", "run").output == "1 ['null'] False None\n"


def test_config_reaches_commands_of_commands(install: Install, tmp_path: Path) -> None:
    group = click.Group()
    group.add_command(echoing(), "check")
    install(group)
    (tmp_path / "c.toml").write_text("[run.check]\nmax-frames = 4\n")
    assert invoke("--config", tmp_path / "c.toml", "run", "check").output == "4 [] False None\n"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[walk]\nx = 1\n", ["[walk]", "demo", "train", "run"]),
        ("[run]\nmax_frames = 1\n", ["'max_frames'", "json", "loop", "max-frames", "sink"]),
        ("run = 3\n", ["run", "a table [run]"]),
        ("[run]\nmax-frames = [1, 2]\n", ["max-frames", "a single value"]),
        ("[run\n", ["is not TOML"]),
        (None, ["cannot read"]),
    ],
)
def test_config_that_says_nothing_sensible_is_refused_in_one_line(
    install: Install, tmp_path: Path, toml: str | None, words: list[str]
) -> None:
    install(echoing())
    config = tmp_path / "c.toml"
    if toml is not None:
        config.write_text(toml)
    result = invoke("--config", config, "run")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_value_of_the_wrong_type_in_config_is_wrong_usage(install: Install, tmp_path: Path) -> None:
    install(echoing())
    (tmp_path / "c.toml").write_text('[run]\nmax-frames = "many"\n')
    result = invoke("--config", tmp_path / "c.toml", "run")
    assert result.exit_code == 2
    assert "--max-frames" in result.stderr


def test_document_has_a_schema_and_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_document(path, "run", frames=3)
    assert json.loads(path.read_text()) == {"schema": "edgeseg/run/1", "frames": 3}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_document(path, "run", fps=float("nan"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]
    assert json.loads(path.read_text())["frames"] == 3
    write_document(None, "run", frames=3)


def test_document_that_cannot_be_written_is_a_users_problem(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="cannot write"):
        write_document(tmp_path / "no-folder" / "out.json", "run")


def test_progress_is_silent_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("counting", 3) as advance:
        advance()
        advance(2)
    assert capfd.readouterr() == ("", "")


def test_table_names_only_commands_with_a_profile_that_exists() -> None:
    profiles = set(metadata.metadata("edgeseg").get_all("Provides-Extra") or [])
    assert {entry.profile for entry in cli.COMMANDS.values()} <= profiles
