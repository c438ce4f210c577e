"""The real edgeseg on a booted device: wheels installed with no network, a seal on its engines, frames flowing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.deploy.conftest import Makers
from tests.deploy.devices import Devices
from tests.deploy.wheelhouse import EDGESEG, INSTALL, PYTHON, make_wheelhouse

RUN = [
    *(EDGESEG, "run", "{slot}/bundle", "--backend", "ort"),
    *("--source", "synthetic://street?size=96x64&fps=10"),
]
# Stands for `edgeseg build`, which needs a GPU: the same folder, key and seal.
SEAL = "from edgeseg.runtime.engine.cache import SealedFolder; SealedFolder().save('one', {'gpu': 'x'}, b'an engine')"
LOAD = "from edgeseg.runtime.engine.cache import SealedFolder; print(SealedFolder().load('one', {'gpu': 'x'}))"
SETTINGS = {
    "prepare": INSTALL,
    "build": [[PYTHON, "-c", SEAL], [*RUN, "--max-frames", "5"]],
    "serve": [*RUN, "--hard-frames", "/var/lib/edgeseg-service/hard", "--hard-frames-max", "5MB"],
    "probation_s": 20,
}


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheelhouse(tmp_path_factory.mktemp("wheelhouse"), "x86_64")


@pytest.mark.booted
@pytest.mark.timeout(1200)
def test_real_release_is_installed_sealed_and_flows_alone(devices: Devices, makers: Makers, wheelhouse: Path) -> None:
    device = devices.boot("edge", signer=makers.key.with_suffix(".pub"), settings=SETTINGS, disk_mb=3072)
    device.push(makers.release(1, wheelhouse=wheelhouse))
    device.set_link(False)
    after = device.await_status(lambda status: status.get("good") is not None and "health" in status, limit_s=900)
    assert after["current"]["whole"] and after["health"]["release"] == after["current"]["digest"]
    assert after["health"]["flowing"] and after["health"]["golden"] == 1.0 and after["health"]["frame_age_ms"] > 0
    main = device.run("systemctl", "show", "edgeseg", "-P", "MainPID").stdout.strip()
    cache = next(
        word
        for word in device.run("cat", f"/proc/{device.run('pgrep', '-P', main).stdout.strip()}/environ").stdout.split(
            "\0"
        )
        if word.startswith("XDG_CACHE_HOME=")
    )
    user = ("setpriv", "--reuid=edgeseg", "--regid=edgeseg", "--init-groups")
    python = PYTHON.format(slot="/var/lib/edgeseg/current")
    loaded = device.run("nsenter", "-t", main, "-m", "--", "env", cache, *user, python, "-c", LOAD)
    assert loaded.stdout == "b'an engine'\n"
