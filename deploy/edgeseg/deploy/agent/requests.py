"""A wish to activate, left for the build unit: what was asked for over SSH goes on when the connection is lost.

systemd starts the unit as long as the file is there, after a power cut too; it is removed once there is an outcome.
"""

from __future__ import annotations

from .activation import Agent
from .config import Config
from .errors import AgentError
from .files import remove_file, write_whole
from .push import forget_refusal, note_refusal
from .upload import Uploads

_WAIT_S = 60
"""A look at the trial, or a start of the service, is over by then."""


def request(config: Config, sha256: str) -> str:
    """Ask for the activation of an upload. Raises `AgentError` if it is not here."""
    if not Uploads(config).path(sha256).exists():
        raise AgentError(f"no upload {sha256[:12]}", fix="push it first")
    forget_refusal(config.root)
    write_whole(config.root / "request", sha256.encode())
    return "the activation was asked for"


def fulfil(config: Config, agent: Agent) -> str:
    """Do what was asked for. The request and the upload are gone afterwards, whatever came of it."""
    wish, uploads = config.root / "request", Uploads(config)
    if not wish.exists():
        return "nothing was asked for"
    path = None
    try:
        path = uploads.path(wish.read_text(encoding="ascii", errors="replace"))
        return agent.activate(path, wait_s=_WAIT_S)
    except AgentError as error:
        note_refusal(config.root, path.stem if path else "", str(error))
        raise
    finally:
        if path is not None:
            uploads.forget(path)
        remove_file(wish)
