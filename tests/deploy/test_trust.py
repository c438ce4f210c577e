"""Keys, signatures, and which releases a device takes."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.deploy.conftest import SIGNED_AT, Bench, FakeClock, Makers

from edgeseg.deploy import commands, keys
from edgeseg.deploy.agent.descriptor import Needs, parse_descriptor
from edgeseg.deploy.agent.device import Device
from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.errors import DeployError

DAY = 86400


def refused(bench: Bench, release: Path, match: str) -> None:
    """The release is refused with one line, and what ran before still runs."""
    before = bench.version()
    with pytest.raises(AgentError, match=match) as caught:
        bench.agent().activate(release)
    assert "\n" not in str(caught.value)
    assert bench.version() == before


def resigned(bench: Bench, release: Path, signature: bytes | None) -> Path:
    """A copy of `release` with another signature, or none."""
    out = bench.folder / "resigned.release"
    with zipfile.ZipFile(release) as source, zipfile.ZipFile(out, "w") as target:
        for info in source.infolist():
            if info.filename != "release.sig":
                target.writestr(info, source.read(info))
        if signature is not None:
            target.writestr("release.sig", signature)
    return out


def test_signature_must_be_there_by_a_trusted_key_and_for_releases(bench: Bench) -> None:
    bench.install(1)
    release = bench.makers.release(2)
    with zipfile.ZipFile(release) as archive:
        data = archive.read("release.json")
        other = zipfile.ZipFile(bench.makers.release(1)).read("release.sig")
    refused(bench, resigned(bench, release, None), "no release.sig")
    refused(bench, resigned(bench, release, b"garbage"), "not signed by a key that is trusted")
    refused(bench, resigned(bench, release, other), "does not hold .*incorrect signature")
    as_bundle = keys.sign(data, bench.makers.key, keys.BUNDLE_NAMESPACE)
    refused(bench, resigned(bench, release, as_bundle), "not signed|does not hold")
    stranger = bench.makers.new_key(f"stranger-{bench.folder.name}")
    refused(bench, bench.makers.release(2, key=stranger), "not signed by a key that is trusted here")


def test_device_without_trusted_keys_takes_nothing(bench: Bench) -> None:
    bench.config.allowed_signers.unlink()
    refused(bench, bench.makers.release(1), "no trusted keys")


def test_older_version_and_another_release_of_the_same_version_are_refused(bench: Bench) -> None:
    bench.install(5)
    refused(bench, bench.makers.release(4), "older than version 5, which was permanent here")
    refused(bench, bench.makers.release(5, name="impostor"), "version 5 was another release")


def test_revoked_key_is_refused_also_by_a_revocation_that_a_release_brought(bench: Bench, tmp_path: Path) -> None:
    second = bench.makers.new_key(f"second-{bench.folder.name}")
    trust = tmp_path / "trust"
    trust.mkdir()
    keys.add_trust(trust / "allowed_signers", keys.trust_line(bench.makers.key.with_suffix(".pub"), "test"))
    keys.add_trust(trust / "allowed_signers", keys.trust_line(second.with_suffix(".pub"), "second"))
    keys.revoke(bench.makers.key.with_suffix(".pub"), trust / "revoked_keys")
    bench.install(1)
    bench.install(2, trust=trust)
    refused(bench, bench.makers.release(3), "the key test is revoked")
    bench.install(4, key=second, trust=trust)
    keys.revoke(second.with_suffix(".pub"), bench.config.revoked_keys)
    refused(bench, bench.makers.release(5, key=second), "the key second is revoked")


def test_damaged_list_of_revoked_keys_refuses_rather_than_forgets(bench: Bench) -> None:
    keys.revoke(bench.makers.new_key(f"gone-{bench.folder.name}").with_suffix(".pub"), bench.config.revoked_keys)
    data = bench.config.revoked_keys.read_bytes()
    for damaged in (b"", b"\0" * len(data), data[:-9]):
        bench.config.revoked_keys.write_bytes(damaged)
        refused(bench, bench.makers.release(1), "revoked")
    bench.config.revoked_keys.write_bytes(data)
    bench.install(1)


def test_rotation_trusts_the_new_key_and_drops_the_old(bench: Bench, tmp_path: Path) -> None:
    new = bench.makers.new_key(f"new-{bench.folder.name}")
    keys.add_trust(tmp_path / "allowed_signers", keys.trust_line(new.with_suffix(".pub"), "new"))
    refused(bench, bench.makers.release(2, key=new), "not signed by a key")
    bench.install(1, trust=tmp_path)
    bench.install(2, key=new, trust=tmp_path)
    refused(bench, bench.makers.release(3), "not signed by a key")


def test_key_validity_is_judged_by_a_believed_clock(bench: Bench) -> None:
    line = keys.trust_line(
        bench.makers.key.with_suffix(".pub"), "test", not_before="20260101", not_after="20260201"
    )  # fmt: skip
    bench.config.allowed_signers.write_text(line, "utf-8")
    bench.clock = FakeClock(SIGNED_AT + 60 * DAY)
    refused(bench, bench.makers.release(1), "key has expired|not signed")
    bench.clock = FakeClock(0, known=False)
    bench.install(1)


@pytest.mark.parametrize(
    ("wall", "known", "taken"),
    [
        (SIGNED_AT + DAY, True, True),
        (SIGNED_AT + 9 * DAY, True, False),
        (SIGNED_AT + 9 * DAY, False, True),  # not known to be set: it says nothing
        (0, True, True),  # behind what was signed: it is wrong, whatever it says of itself
        (0, False, True),
        (SIGNED_AT + 40 * 365 * DAY, True, False),  # decades ahead: refused, and nothing else happens
    ],
)
def test_expiry_is_judged_only_by_a_clock_that_is_known_to_be_set(
    bench: Bench, wall: int, known: bool, taken: bool
) -> None:
    bench.clock = FakeClock(wall, known=known)
    release = bench.makers.release(1, expires=SIGNED_AT + 7 * DAY)
    if taken:
        assert "on trial" in bench.agent().activate(release)
    else:
        refused(bench, release, "expired on 2026-01-08T00:00:00Z, and by the clock it is ")


def test_clock_set_back_does_not_revive_what_expired_before_a_later_release(bench: Bench) -> None:
    bench.install(1, created=SIGNED_AT + 10 * DAY)
    bench.clock = FakeClock(0, known=False)
    refused(bench, bench.makers.release(2, expires=SIGNED_AT + 7 * DAY), "by what was signed since it is 2026-01-11")


def test_clock_decades_ahead_for_a_while_blocks_no_later_release(bench: Bench) -> None:
    bench.clock = FakeClock(SIGNED_AT + 40 * 365 * DAY)
    bench.install(1)
    bench.clock = FakeClock(SIGNED_AT + 2 * DAY)
    bench.install(2, expires=SIGNED_AT + 7 * DAY)


@pytest.mark.parametrize(
    ("needs", "found"),
    [
        ({"machine": "aarch64"}, "machine x86_64; expected aarch64"),
        ({"python": "3.12"}, "python 3.10"),
        ({"jetpack_min": "6.3"}, "JetPack 6.2.1; expected 6.3 to any"),
        ({"jetpack_min": "5.1", "jetpack_max": "6.1"}, "JetPack 6.2.1; expected 5.1 to 6.1"),
        ({"memory_mb": 16000}, "8000 MB of memory; expected at least 16000"),
        ({"gpu": ["sm110"]}, "GPU sm87; expected sm110"),
    ],
)
def test_release_for_another_device_is_refused(bench: Bench, needs: dict[str, Any], found: str) -> None:
    facts = {"machine": "x86_64", "python": "3.10", "jetpack": "6.2.1", "memory_mb": 8000, "gpu": "sm87"}
    bench.set(device=facts)
    refused(bench, bench.makers.release(1, needs=needs), f"this device has {found}")
    bench.agent().activate(
        bench.makers.release(1, needs={"jetpack_min": "6", "jetpack_max": "6.2", "gpu": ["sm87"], "memory_mb": 8000})
    )


def test_unknown_fact_meets_no_demand() -> None:
    device = Device(machine="aarch64", python="3.10", memory_mb=8000, jetpack=None, gpu=None)
    assert Needs(jetpack_min="6.0").unmet(device) == ("JetPack unknown", "6.0 to any")
    assert Needs(gpu=("sm87",)).unmet(device) == ("GPU unknown", "sm87")
    assert Needs().unmet(device) is None


def test_same_content_gives_the_same_bytes(makers: Makers, tmp_path: Path) -> None:
    first = makers.release(7)
    data = first.read_bytes()
    first.unlink()
    assert makers.release(7).read_bytes() == data


@pytest.mark.parametrize("path", ["../etc/x", "/etc/x", "bundle/../x", "bundle//x", "state.json", "slots/x", "bundle"])
def test_path_outside_the_release_is_refused(path: str) -> None:
    text = (
        '{"schema": "edgeseg/release/1", "name": "x", "version": 1, "created": "2026-01-01T00:00:00Z", "needs": {}, '
        f'"files": {{"{path}": {{"size": 0, "sha256": "{"0" * 64}"}}}}}}'
    )
    with pytest.raises(AgentError, match="malformed: path"):
        parse_descriptor(text.encode())


@given(st.binary(max_size=200) | st.recursive(st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_a_descriptor_or_one_clear_error(data: bytes) -> None:
    with pytest.raises(AgentError):
        parse_descriptor(data)


class TestCommands:
    def invoke(self, command: Any, *arguments: object) -> str:
        done = CliRunner().invoke(command, [str(item) for item in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def test_bundle_is_signed_and_verified_by_key_or_list(
        self, makers: Makers, make_tiny_bundle: Any, tmp_path: Path
    ) -> None:
        bundle, key = make_tiny_bundle(tmp_path / "mine"), tmp_path / "key"
        self.invoke(commands.keygen, "--out", key)
        assert key.stat().st_mode & 0o77 == 0
        public = key.with_suffix(".pub")
        with pytest.raises(DeployError, match="is not signed; fix: sign it with edgeseg sign"):
            self.invoke(commands.verify, bundle, "--key", public)
        self.invoke(commands.sign, bundle, "--key", key)
        assert "signed by key" in self.invoke(commands.verify, bundle, "--key", public)
        self.invoke(commands.deploy, "trust", public, "--into", tmp_path / "list", "--id", "mine-2026")
        assert "signed by mine-2026" in self.invoke(commands.verify, bundle, "--key", tmp_path / "list")
        with pytest.raises(DeployError, match=r"not signed by a key that is trusted here .*expected a signature by"):
            self.invoke(commands.verify, bundle, "--key", makers.key.with_suffix(".pub"))
        with pytest.raises(DeployError, match="is there already"):
            self.invoke(commands.keygen, "--out", key)

    def test_release_is_made_and_verified(self, makers: Makers, tiny_bundle: Path, tmp_path: Path) -> None:
        out = tmp_path / "7.release"
        options = ("--version", 7, "--gpu", "sm87", "--jetpack-min", "6.1", "--created", "2026-01-01T00:00:00Z")
        self.invoke(commands.deploy, "release", tiny_bundle, "--key", makers.key, "--out", out, *options)
        public = makers.key.with_suffix(".pub")
        assert "tiny version 7" in self.invoke(commands.verify, out, "--key", public)
        data = bytearray(out.read_bytes())
        at = data.find(b"\x89PNG") + 20
        data[at] ^= 1
        out.write_bytes(data)
        with pytest.raises(DeployError, match=r"Bad CRC|altered"):
            self.invoke(commands.verify, out, "--key", public)

    def test_private_key_never_gets_into_a_release(self, makers: Makers, tiny_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "trust").mkdir()
        (tmp_path / "trust" / "key").write_bytes(makers.key.read_bytes())
        options = ("--key", makers.key, "--out", tmp_path / "x", "--version", 1, "--trust", tmp_path / "trust")
        with pytest.raises(DeployError, match="is a private key"):
            self.invoke(commands.deploy, "release", tiny_bundle, *options)

    def test_agent_is_one_file_with_the_same_bytes(self, makers: Makers, tmp_path: Path) -> None:
        out = tmp_path / "agent"
        self.invoke(commands.deploy, "agent", "--out", out)
        assert out.read_bytes() == makers.agent.read_bytes()
        assert b"usage: edgeseg-agent" in subprocess.run([out, "-h"], capture_output=True, check=True).stdout
