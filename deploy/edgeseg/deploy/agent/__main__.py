"""The agent's command line. Exit status 0 success, 1 a problem (one line on standard error), 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import config as settings
from .activation import Agent
from .device import Clock
from .errors import AgentError
from .requests import fulfil, request
from .service import serve
from .status import read_status
from .upload import Uploads


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        config = settings.load_config(options.config)
        return _run(options, config, Clock(config.clock))
    except AgentError as error:
        sys.stderr.write(f"error: {error}\n")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"error: {error.strerror or error}{where}\n")
    return 1


def _run(options: argparse.Namespace, config: settings.Config, clock: Clock) -> int:
    command = options.command
    if command == "serve":
        return serve(config, clock)
    agent, uploads = Agent(config, clock), Uploads(config)
    if command == "status":
        line = json.dumps(read_status(config, clock), indent=2, allow_nan=False)
    elif command == "offset":
        line = str(uploads.offset(options.sha256))
    elif command == "receive":
        line = uploads.receive(
            sys.stdin.buffer, sha256=options.sha256, size=options.size, offset=options.offset
        )  # fmt: skip
    elif command == "request":
        line = request(config, options.sha256)
    elif command == "activate":
        line = agent.activate(options.release)
    else:
        line = {
            "fulfil": lambda: fulfil(config, agent),
            "look": agent.look,
            "guard": agent.guard,
            "start-failed": agent.start_failed,
            "rollback": agent.roll_back,
        }[command]()
    sys.stdout.write(line + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgeseg-agent", description="Keeps one device on a whole, signed release.")
    parser.add_argument("--config", type=Path, default=settings.DEFAULT, metavar="FILE")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("status", "print what this device runs, as JSON"),
        ("look", "judge the version on trial (the probation timer)"),
        ("guard", "count a start of the service and check what starts"),
        ("start-failed", "deal with systemd's start limit"),
        ("rollback", "go back to the version before"),
        ("serve", "run the current release and feed the watchdog"),
        ("fulfil", "do what was asked for by `request` (the build unit)"),
    ):
        commands.add_parser(name, help=text)
    commands.add_parser("activate", help="put a release on trial").add_argument("release", type=Path)
    for name, text in (
        ("offset", "print how many bytes of an upload are here"),
        ("receive", "append standard input to an upload"),
        ("request", "ask the build unit to activate an upload"),
    ):
        upload = commands.add_parser(name, help=text)
        upload.add_argument("sha256")
        if name == "receive":
            upload.add_argument("--size", type=int, required=True)
            upload.add_argument("--offset", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
