"""Engines are made by the service's user, before the switch, and those of releases that are gone go too."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.conftest import Bench

from edgeseg.deploy.agent.engines import engines_folder
from edgeseg.deploy.agent.errors import AgentError

WRITE = (
    "import os, pathlib; pathlib.Path(os.environ['XDG_CACHE_HOME'], 'engine').write_text(os.getcwd()); print('told')"
)


class Builder:
    """What systemd does for `edgeseg-engines.socket`: the agent's `build`, with each asker at its standard input."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.ended: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(bench.config.builder))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                asker, _ = self._socket.accept()
            except OSError:
                return
            with asker:
                done = subprocess.run(
                    self._bench.command("build"), stdin=asker.fileno(), stdout=asker.fileno(), check=False
                )
            self.ended.append(done.returncode)

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def builder(bench: Bench) -> Iterator[Builder]:
    bench.set(
        builder=bench.folder / "builder", engines=bench.folder / "engines", build=((sys.executable, "-c", WRITE),)
    )
    bench.config.engines.mkdir()
    made = Builder(bench)
    yield made
    made.close()


def engines(bench: Bench) -> list[Path]:
    return sorted(bench.config.engines.iterdir())


def test_engines_are_there_before_the_switch_and_the_service_looks_there(bench: Bench, builder: Builder) -> None:
    bench.install(1)
    (folder,) = engines(bench)
    assert (folder / "engine").read_text("utf-8") == "/"
    looks = "import os, pathlib; pathlib.Path(r'%s').write_text(os.environ['XDG_CACHE_HOME'])" % (
        bench.folder / "looked"
    )
    bench.set(serve=(sys.executable, "-c", looks))
    bench.run("serve")
    assert (bench.folder / "looked").read_text("utf-8") == str(folder)


def test_failing_build_leaves_the_running_version_alone(bench: Bench, builder: Builder) -> None:
    bench.install(1)
    bench.set(build=((sys.executable, "-c", "raise SystemExit(4)"),))
    with pytest.raises(AgentError, match=r"building engines failed: .* ended with status 4"):
        bench.agent().activate(bench.makers.release(2))
    assert bench.version() == 1


def test_no_builder_is_one_line(bench: Bench) -> None:
    bench.set(build=(("true",),), builder=bench.folder / "nobody")
    with pytest.raises(AgentError, match=r"nobody builds engines at .*; fix: systemctl enable --now edgeseg-engines"):
        bench.agent().activate(bench.makers.release(1))


def test_builder_ends_with_its_asker(bench: Bench, builder: Builder) -> None:
    bench.set(build=((sys.executable, "-c", "import time; time.sleep(600)"),), prepare_timeout_s=2)
    with pytest.raises(AgentError, match="took longer than 2 s"):
        bench.agent().activate(bench.makers.release(1))
    builder.close()  # joins the thread that waits for the builder's end
    assert builder.ended == [1]


@pytest.mark.parametrize("word", [b"\n", b"c\n", b"../a\n", b"\xff" * 5000, b""])
def test_a_question_that_names_no_slot_builds_nothing(bench: Bench, builder: Builder, word: bytes) -> None:
    bench.install(1)
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(str(bench.config.builder))
        asker.sendall(word)
        asker.shutdown(socket.SHUT_WR)
        assert b"holds no release" in asker.recv(4096)


def test_engines_of_releases_in_no_slot_are_removed(bench: Bench, builder: Builder) -> None:
    for version in (1, 2, 3):
        bench.install(version)
    kept = [bench.agent().slots.descriptor(slot) for slot in "ab"]
    assert engines(bench) == sorted(engines_folder(bench.config, release) for release in kept if release)


def test_engines_are_built_again_on_demand_and_when_a_permanent_version_does_not_start(
    bench: Bench, builder: Builder
) -> None:
    bench.install(1)
    engine = engines(bench)[0] / "engine"
    for again in (bench.agent().rebuild, bench.agent().start_failed):
        engine.unlink()
        (bench.folder / "restarted").unlink()
        assert "was started again" in again()
        assert engine.exists() and (bench.folder / "restarted").exists()


def test_service_is_started_again_even_where_no_engine_can_be_built(bench: Bench, builder: Builder) -> None:
    bench.install(1)
    (bench.folder / "restarted").unlink()
    bench.set(build=(("false",),))
    done = bench.run("engines")
    assert (done.returncode, "building engines failed" in done.stderr) == (1, True)
    assert (bench.folder / "restarted").exists()
    assert json.loads(bench.run("status").stdout)["current"]["whole"]
