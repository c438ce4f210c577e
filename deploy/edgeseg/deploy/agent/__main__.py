"""The agent's command line. Exit status 0 success, 1 a problem (one line on standard error), 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path

from . import config as settings
from .activation import Agent
from .device import Clock
from .engines import build
from .errors import AgentError
from .install import install
from .power import set_power
from .push import assemble, read_content, read_progress
from .requests import fulfil, request
from .service import serve
from .status import read_status
from .upload import Uploads


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "install":
            return _say(install(options.root))
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
    if command == "build":
        with socket.socket(fileno=os.dup(sys.stdin.fileno())) as asker:
            return build(config, asker)
    if command == "power":
        return _say(set_power(config))
    agent, uploads = Agent(config, clock), Uploads(config)
    if command == "status":
        line = json.dumps(read_status(config, clock), indent=2, allow_nan=False)
    elif command == "offset":
        line = str(uploads.offset(options.sha256))
    elif command == "receive":
        line = uploads.receive(
            sys.stdin.buffer, sha256=options.sha256, size=options.size, offset=options.offset
        )  # fmt: skip
    elif command == "content":
        line = json.dumps(read_content(config))
    elif command == "progress":
        line = json.dumps(read_progress(config, options.sha256), allow_nan=False)
    elif command == "assemble":
        line = assemble(
            config, sys.stdin.fileno(), sha256=options.sha256, size=options.size, offset=options.offset
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
            "engines": agent.rebuild,
        }[command]()
    return _say(line)


def _say(line: str) -> int:
    sys.stdout.write(line + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgeseg-agent", description="Keeps one device on a whole, signed release.")
    parser.add_argument("--config", type=Path, default=settings.DEFAULT, metavar="FILE")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("status", "print what this device runs, as JSON"),
        ("content", "print which files of a release are here, as JSON"),
        ("look", "judge the version on trial (the probation timer)"),
        ("guard", "count a start of the service and check what starts"),
        ("start-failed", "deal with systemd's start limit"),
        ("rollback", "go back to the version before"),
        ("engines", "build the current release's engines again, as after an upgrade of TensorRT"),
        ("build", "build engines for the one at standard input, a socket (the engines unit)"),
        ("power", "set the power mode and the clocks (the power unit)"),
        ("serve", "run the current release and feed the watchdog"),
        ("fulfil", "do what was asked for by `request` (the build unit)"),
    ):
        commands.add_parser(name, help=text)
    commands.add_parser("activate", help="put a release on trial").add_argument("release", type=Path)
    root = commands.add_parser("install", help="put the agent and its units in place")
    root.add_argument("--root", type=Path, default=Path("/"), help="of an image that has yet to boot")
    for name, text in (
        ("offset", "print how many bytes of an upload are here"),
        ("receive", "append standard input to an upload"),
        ("assemble", "append to an upload from the slots and from standard input"),
        ("progress", "print how far a release is here, as JSON"),
        ("request", "ask the build unit to activate an upload"),
    ):
        upload = commands.add_parser(name, help=text)
        upload.add_argument("sha256")
        if name in ("receive", "assemble"):
            upload.add_argument("--size", type=int, required=True)
            upload.add_argument("--offset", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
