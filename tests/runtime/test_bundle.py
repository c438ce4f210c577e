"""Bundles through the one door that everything opens them by, and every way to be refused there."""

import gc
import io
import json
import shutil
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.runtime.bundle import open_bundle, pack_bundle, shipped_models, write_bundle
from edgeseg.runtime.errors import BundleError
from edgeseg.runtime.files import sha256_file
from edgeseg.runtime.manifest import Golden, Manifest

MODEL = "model.fp32.onnx"


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle to spoil."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def archive(tiny_bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.edgeseg"
    pack_bundle(tiny_bundle, path)
    return path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the manifest."""
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))


def edit_graph(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Rewrite the graph, with a manifest that vouches for it."""
    model = onnx.load(folder / MODEL)
    change(model)
    onnx.save(model, folder / MODEL)
    entry = {"size": (folder / MODEL).stat().st_size, "sha256": sha256_file(folder / MODEL)}
    edit(folder, lambda manifest: manifest["files"].update({MODEL: entry}))


def rewrite(folder: Path, **changes: Any) -> Manifest:
    """Write the bundle anew around the files that are there now."""
    old = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    names = ("name", "contract", "stages", "golden", "provenance")
    return write_bundle(folder, **{name: getattr(old, name) for name in names} | changes)


def refused(path: str | Path) -> str:
    with pytest.raises(BundleError) as refusal:
        open_bundle(path)
    line = str(refusal.value)
    assert "\n" not in line
    return line


# What is sound opens.


def test_open_gives_what_was_written(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert (bundle.name, bundle.precisions) == ("tiny", ("fp32",))
    assert bundle.manifest_sha256 == sha256_file(tiny_bundle / "manifest.json")
    assert bundle.model_path("fp32") == tiny_bundle / MODEL
    assert bundle.manifest.golden.agreement == {"fp32": 1.0}


def test_golden_frames_have_the_contracts_size(tiny_bundle: Path) -> None:
    ((name, frame, mask),) = open_bundle(tiny_bundle).golden_frames()
    assert (name, frame.shape, mask.shape) == ("blocks", (64, 96, 3), (64, 96))
    assert frame.dtype == mask.dtype == np.uint8


def test_archive_opens_like_its_folder(tiny_bundle: Path, archive: Path) -> None:
    with open_bundle(archive) as bundle:
        assert bundle.manifest_sha256 == open_bundle(tiny_bundle).manifest_sha256
        assert bundle.model_path("fp32").read_bytes() == (tiny_bundle / MODEL).read_bytes()
        assert stat.S_IMODE(bundle.path.stat().st_mode) == 0o700
    assert not bundle.path.exists()


def test_archive_is_removed_with_a_bundle_that_nobody_closed(archive: Path) -> None:
    bundle = open_bundle(archive)
    path = bundle.path
    del bundle
    gc.collect()
    assert not path.exists()


def test_closing_keeps_a_folder(folder: Path) -> None:
    with open_bundle(folder):
        pass
    assert open_bundle(folder).name == "tiny"


def test_archive_made_by_zip_itself_opens(folder: Path, tmp_path: Path) -> None:
    made = shutil.make_archive(str(tmp_path / "made"), "zip", folder)  # deflated, with entries for folders
    with open_bundle(made) as bundle:
        assert bundle.name == "tiny"


def test_signature_may_be_unlisted(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.sig").write_bytes(b"signature")
    pack_bundle(folder, tmp_path / "signed.edgeseg")
    with open_bundle(tmp_path / "signed.edgeseg") as bundle:
        assert (bundle.path / "manifest.sig").read_bytes() == b"signature"


def test_folder_may_be_reached_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert open_bundle(tmp_path / "current").path == folder


def test_same_files_give_the_same_bytes(
    make_tiny_bundle: Callable[[Path], Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    again = make_tiny_bundle(tmp_path / "again")
    assert (again / "manifest.json").read_bytes() == (tiny_bundle / "manifest.json").read_bytes()
    pack_bundle(tiny_bundle, tmp_path / "one.edgeseg")
    pack_bundle(again, tmp_path / "two.edgeseg")
    assert (tmp_path / "one.edgeseg").read_bytes() == (tmp_path / "two.edgeseg").read_bytes()


def test_every_shipped_model_opens_by_its_name() -> None:
    for name in shipped_models():
        assert open_bundle(name).name == name


# What is not sound is refused, and the line says why.


def test_refuses_no_such_path(tmp_path: Path) -> None:
    assert "no such bundle" in refused(tmp_path / "absent")
    assert "no such bundle" in refused("../absent")


def test_refuses_a_folder_without_manifest(tmp_path: Path) -> None:
    assert "has no manifest.json" in refused(tmp_path)


def test_refuses_a_missing_file(folder: Path) -> None:
    (folder / MODEL).unlink()
    assert refused(folder).startswith(f"bundle lacks {MODEL}")


def test_refuses_an_unlisted_file(folder: Path) -> None:
    (folder / "golden" / "extra.png").touch()
    assert refused(folder).startswith("golden/extra.png: not in manifest.json")


def test_refuses_a_changed_byte(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / MODEL).write_bytes(data)
    assert refused(folder).startswith(f"{MODEL} was altered")


def test_refuses_a_changed_size(folder: Path) -> None:
    size = (folder / MODEL).stat().st_size
    with (folder / MODEL).open("ab") as stream:
        stream.write(b"\0")
    assert refused(folder).startswith(f"{MODEL} has {size + 1} bytes; expected {size}")


@pytest.mark.parametrize("schema", ["edgeseg/bundle/2", "", None, 1])
def test_refuses_an_unknown_schema(folder: Path, schema: object) -> None:
    edit(folder, lambda manifest: manifest.update(schema=schema))
    assert refused(folder).startswith(f"manifest.json has schema {schema!r}; expected 'edgeseg/bundle/1'")


@pytest.mark.parametrize("text", ["", "{", "nonsense", "\xff", "[" * 100_000])
def test_refuses_what_is_not_json(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    assert "is not JSON" in refused(folder)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"'])
def test_refuses_json_that_is_no_manifest(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert "has schema None" in refused(folder)


@pytest.mark.parametrize("field", ["name", "contract", "files", "stages", "golden", "provenance"])
def test_refuses_a_missing_field_by_its_name(folder: Path, field: str) -> None:
    edit(folder, lambda manifest: manifest.pop(field))
    assert refused(folder).startswith(f"manifest.json: {field}: Field required")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.update(surprise=1), "surprise: Extra inputs"),
        (lambda m: m.update(name="../street"), "name: "),
        (lambda m: m["contract"].update(height="tall"), "contract.height: "),
        (lambda m: m["contract"].update(ignore_index=3), "contract: .* ignore_index 3"),
        (lambda m: m["files"][MODEL].update(sha256="0"), rf"files\.{MODEL}\.sha256"),
        (lambda m: m["files"][MODEL].update(size=-1), rf"files\.{MODEL}\.size"),
        (lambda m: m["files"][MODEL].update(size=1 << 60), rf"files\.{MODEL}\.size"),
        (lambda m: m["stages"]["fp32"].update(miou=float("nan")), r"Input should be|invalid"),
        (lambda m: m["stages"].update({"int8": m["stages"]["fp32"]}), "int8 is scored but has no file"),
        (lambda m: m["golden"].update(frames=["absent"]), "golden frame without file golden/absent.frame.png"),
        (lambda m: m["files"].pop(MODEL), r"no file model\.PRECISION\.onnx"),
    ],
)
def test_refuses_a_wrong_field_by_its_name(
    folder: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    edit(folder, change)
    with pytest.raises(BundleError, match=named):
        open_bundle(folder)


ESCAPES = ["/etc/passwd", "../outside", "golden/../../outside", "a//b", "./a", "a\\b", "C:a", "", "a\nb", "a/", "."]


@pytest.mark.parametrize("path", ESCAPES)
def test_refuses_a_path_that_escapes_the_folder(folder: Path, path: str) -> None:
    edit(folder, lambda manifest: manifest["files"].update({path: manifest["files"][MODEL]}))
    assert "escapes the folder" in refused(folder)


def test_refuses_a_link_even_to_the_right_bytes(folder: Path, tmp_path: Path) -> None:
    (folder / MODEL).replace(tmp_path / "elsewhere.onnx")
    (folder / MODEL).symlink_to(tmp_path / "elsewhere.onnx")
    assert refused(folder).startswith(f"{MODEL} is not a regular file")


def test_refuses_a_folder_that_is_a_link(folder: Path, tmp_path: Path) -> None:
    (folder / "golden").replace(tmp_path / "golden")
    (folder / "golden").symlink_to(tmp_path / "golden")
    assert refused(folder).startswith("golden is not a regular file")


def test_refuses_a_manifest_of_absurd_size(folder: Path) -> None:
    with (folder / "manifest.json").open("ab") as stream:
        stream.write(b" " * (1 << 22))
    assert "is larger than" in refused(folder)


def test_refuses_a_class_count_that_is_not_the_graphs(folder: Path) -> None:
    def drop_class(manifest: dict[str, Any]) -> None:
        manifest["contract"]["classes"].pop()
        manifest["contract"]["palette"].pop()

    edit(folder, drop_class)
    assert f"{MODEL}: the graph decides between 11 classes; expected 10" in refused(folder)


def test_refuses_a_graph_that_hides_its_class_count(folder: Path) -> None:
    edit_graph(folder, lambda model: model.graph.ClearField("value_info"))
    assert "an unknown number of classes" in refused(folder)


def test_refuses_a_graph_of_another_size(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["contract"].update(height=96))
    assert "input frame uint8 (1, 64, 96, 3); expected frame uint8 (1, 96, 96, 3)" in refused(folder)


def test_refuses_another_input_name(folder: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = "image"

    edit_graph(folder, rename)
    assert "input image uint8 (1, 64, 96, 3); expected frame uint8" in refused(folder)


def test_refuses_another_output_type(folder: Path) -> None:
    def give_floats(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT

    edit_graph(folder, give_floats)
    assert "output mask float32 (1, 64, 96); expected mask uint8 (1, 64, 96)" in refused(folder)


def test_refuses_a_graph_that_is_no_graph(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"hello")
    entry = {"size": 5, "sha256": sha256_file(folder / MODEL)}
    edit(folder, lambda manifest: manifest["files"].update({MODEL: entry}))
    assert refused(folder).startswith(f"{MODEL}: not an ONNX model")


def test_refuses_a_precision_that_it_has_not(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"'tiny' has no int8 graph; expected fp32; fix: .*--precision"):
        open_bundle(tiny_bundle).model_path("int8")


def test_refuses_golden_files_that_are_no_pictures_of_that_size(folder: Path) -> None:
    def golden_refusal() -> str:
        rewrite(folder)
        with pytest.raises(BundleError) as refusal:
            open_bundle(folder).golden_frames()
        return str(refusal.value)

    cv2.imwrite(str(folder / "golden/blocks.mask.png"), np.zeros((32, 96), np.uint8))
    assert golden_refusal().startswith("golden/blocks.mask.png is a picture of shape (32, 96); expected (64, 96)")
    (folder / "golden/blocks.frame.png").write_bytes(b"no picture")
    assert golden_refusal().startswith("golden/blocks.frame.png is not a picture")


def test_write_refuses_what_open_would(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"golden frame without file golden/absent\.frame\.png"):
        rewrite(folder, golden=Golden(frames=("absent",)))


# Archives.


def repack(archive: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], object]) -> None:
    """Rewrite the archive, each member through `change(target, info, data)`."""
    with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as source, zipfile.ZipFile(archive, "w") as target:
        for info in source.infolist():
            change(target, info, source.read(info))


def test_refuses_what_is_no_archive(tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"hello", b"PK\x05\x06" + b"\xff" * 18)):
        (tmp_path / f"{number}.edgeseg").write_bytes(data)
        assert "is not a readable archive" in refused(tmp_path / f"{number}.edgeseg")


def test_refuses_an_archive_without_manifest(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "has no manifest.json" in refused(tmp_path / "other.zip")


def test_refuses_an_archive_with_a_missing_member(archive: Path) -> None:
    def drop(target: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        if info.filename != MODEL:
            target.writestr(info, data)

    repack(archive, drop)
    assert refused(archive).startswith(f"bundle lacks {MODEL}")


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt", "golden/../../escaped.txt", "extra.txt"])
def test_refuses_a_member_that_is_not_listed_and_writes_nothing(archive: Path, name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr(name, "escaped")
    assert "not in manifest.json" in refused(archive)
    assert not list(tmp_path.parent.rglob("escaped.txt"))


def test_refuses_a_listed_member_that_escapes(archive: Path) -> None:
    def escape(target: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        if info.filename == "manifest.json":
            data = data.replace(MODEL.encode(), b"../m.fp32.onnx")
        target.writestr(info, data)

    repack(archive, escape)
    assert "escapes the folder" in refused(archive)


def test_refuses_a_member_that_is_a_link(archive: Path) -> None:
    def link(target: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        if info.filename == MODEL:
            info.external_attr, data = (stat.S_IFLNK | 0o777) << 16, b"/etc/passwd"
        target.writestr(info, data)

    repack(archive, link)
    assert refused(archive).startswith(f"{MODEL} is not a regular file")


def test_refuses_a_member_larger_than_listed(archive: Path) -> None:
    def inflate(target: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        bomb = info.filename == MODEL
        target.writestr(info, bytes(1 << 24) if bomb else data, compress_type=zipfile.ZIP_DEFLATED)

    repack(archive, inflate)
    assert refused(archive).startswith(f"{MODEL} is larger than")


def test_refuses_a_member_that_is_there_twice(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as target, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        target.writestr(MODEL, "again")
    assert refused(archive).startswith(f"{MODEL} is twice in the archive")


def test_refused_archives_leave_nothing_behind(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    archive.write_bytes(archive.read_bytes()[:-200])
    refused(archive)
    assert not list((tmp_path / "temporary").iterdir())


@settings(max_examples=40)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_an_archive_with_one_byte_changed_is_refused_or_means_the_same(
    tiny_bundle: Path, place: float, mask: int
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "tiny.edgeseg"
        pack_bundle(tiny_bundle, archive)
        data = bytearray(archive.read_bytes())
        data[int(place * len(data))] ^= mask
        archive.write_bytes(data)
        try:
            with open_bundle(archive) as bundle:
                assert bundle.manifest_sha256 == open_bundle(tiny_bundle).manifest_sha256
        except BundleError as error:
            assert "\n" not in str(error)


NAMES = st.text("abcxyz019 _-é", min_size=1, max_size=8)


@settings(max_examples=20)
@given(extras=st.dictionaries(st.tuples(NAMES, NAMES).map("/".join), st.binary(max_size=64), max_size=4))
def test_what_is_packed_opens_as_it_was(tiny_bundle: Path, extras: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, archive = Path(temporary) / "bundle", Path(temporary) / "bundle.edgeseg"
        shutil.copytree(tiny_bundle, folder)
        for name, data in extras.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        written = rewrite(folder)
        pack_bundle(folder, archive)
        with open_bundle(archive) as bundle:
            assert bundle.manifest == written
            assert {name: (bundle.path / name).read_bytes() for name in extras} == extras
