"""The upload area: pieces, interruptions, and never a partial file under its final name."""

from __future__ import annotations

import fcntl
import hashlib
import io
from pathlib import Path

import pytest
from tests.deploy.conftest import Bench

from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.agent.upload import Uploads

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def uploads(bench: Bench) -> Uploads:
    bench.config.root.mkdir()
    return Uploads(bench.config)


def send(uploads: Uploads, data: bytes, offset: int = 0, *, sha256: str = SHA256, size: int = len(DATA)) -> str:
    return uploads.receive(io.BytesIO(data), sha256=sha256, size=size, offset=offset)


def test_interrupted_upload_goes_on_where_it_stopped(uploads: Uploads) -> None:
    with pytest.raises(AgentError, match="stopped at byte 3000 of 10240; fix: push again"):
        send(uploads, DATA[:3000])
    assert not uploads.path(SHA256).exists()
    assert uploads.offset(SHA256) == 3000
    with pytest.raises(AgentError, match="stopped at byte 3000; expected 2000"):
        send(uploads, DATA[2000:], 2000)
    assert send(uploads, DATA[3000:], 3000) == "uploaded 7240 bytes".replace("7240", "10240")
    assert uploads.path(SHA256).read_bytes() == DATA


def test_second_upload_does_nothing_and_says_so(uploads: Uploads) -> None:
    send(uploads, DATA)
    assert send(uploads, b"") == "uploaded already: nothing done"
    assert uploads.offset(SHA256) == len(DATA)


def test_wrong_bytes_never_get_the_name_and_are_not_kept(uploads: Uploads) -> None:
    with pytest.raises(AgentError, match="not what its hash says"):
        send(uploads, DATA[:-1] + b"x")
    assert uploads.offset(SHA256) == 0


def test_abandoned_upload_makes_room_but_a_running_one_is_left_alone(uploads: Uploads, bench: Bench) -> None:
    with pytest.raises(AgentError, match="push again"):
        send(uploads, DATA[:100])
    other = hashlib.sha256(b"other").hexdigest()
    with (bench.config.root / "incoming" / f"{SHA256}.partial").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for name, data, size in ((other, b"other", 5), (SHA256, DATA[100:], len(DATA))):
            with pytest.raises(AgentError, match="another sender is uploading"):
                send(uploads, data, 100 if name == SHA256 else 0, sha256=name, size=size)
    send(uploads, b"other", sha256=other, size=5)
    assert [path.name for path in (bench.config.root / "incoming").iterdir()] == [f"{other}.release"]


def test_room_is_checked_before_the_first_byte(bench: Bench) -> None:
    bench.config.root.mkdir()
    bench.set(reserve_mb=1 << 40)
    with pytest.raises(AgentError, match="MB are free on this device"):
        send(Uploads(bench.config), DATA)
    assert Uploads(bench.config).offset(SHA256) == 0


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 63, SHA256.upper()])
def test_name_that_is_no_hash_is_refused(uploads: Uploads, name: str) -> None:
    with pytest.raises(AgentError, match="is no SHA-256"):
        uploads.offset(name)


def test_activation_of_what_was_never_uploaded_is_refused(bench: Bench) -> None:
    run = bench.run("request", SHA256)
    assert (run.returncode, run.stderr) == (1, f"error: no upload {SHA256[:12]}; fix: push it first\n")
    assert not (Path(bench.config.root) / "request").exists()
