"""The bundle: a folder, or a single-file archive of it, that holds a network and all it needs to be judged.

`manifest.json` lists every other file with size and SHA-256, so whoever trusts the manifest's own hash (or its
signature, `manifest.sig`) trusts the whole. Nothing in a bundle is believed before it was checked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import TracebackType

import cv2
from pydantic import ValidationError

from edgeseg.runtime.archive import unpack_archive, write_archive
from edgeseg.runtime.contract import CONFIDENCE, Contract
from edgeseg.runtime.errors import BundleError
from edgeseg.runtime.files import sha256_file, whole_file, write_json
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.manifest import (
    COPY_FIX,
    MANIFEST,
    OPEN_FIX,
    SCHEMA,
    SIGNATURE,
    FileEntry,
    Golden,
    Manifest,
    Precision,
    Provenance,
    Stage,
    golden_paths,
    invalid_manifest,
    model_name,
    parse_manifest,
    read_manifest,
)
from edgeseg.runtime.onnx_facts import GraphFacts, read_facts


class Bundle:
    """A verified bundle. A context manager: closing it removes what an archive was unpacked to."""

    def __init__(self, path: Path, manifest: Manifest, manifest_sha256: str) -> None:
        self.path, self.manifest, self.manifest_sha256 = path, manifest, manifest_sha256

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def contract(self) -> Contract:
        return self.manifest.contract

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that the bundle has a graph for, the reference first."""
        return self.manifest.precisions

    def model_path(self, precision: str) -> Path:
        """Return the ONNX file of `precision`. Raises `BundleError` if the bundle has none."""
        if precision not in self.precisions:
            raise BundleError(
                f"bundle {self.name!r} has no {precision} graph",
                expected=" or ".join(self.precisions),
                fix="choose one of these with --precision, or export that precision too",
            )
        return self.path / model_name(precision)

    def golden_frames(self) -> list[tuple[str, Image, Mask]]:
        """Return (name, frame (H, W, 3) uint8 BGR, mask (H, W) uint8 that it must give), at the contract's size.

        Raises `BundleError` if one of them is not such a picture.
        """
        frames = []
        for name in self.manifest.golden.frames:
            frame_path, mask_path = golden_paths(name)
            frame = _read_png(self.path / frame_path, cv2.IMREAD_COLOR, (*self.contract.size_hw, 3))
            mask = _read_png(self.path / mask_path, cv2.IMREAD_GRAYSCALE, self.contract.size_hw)
            frames.append((name, frame, mask))
        return frames

    def close(self) -> None:
        """Remove what was unpacked, if anything was. The bundle is of no use afterwards."""
        for finalizer in self._finalizers:
            finalizer()

    _finalizers: tuple[weakref.finalize[..., Bundle], ...] = ()

    def _remove_with_me(self, folder: Path) -> None:
        self._finalizers = (weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True),)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path_or_name: str | Path) -> Bundle:
    """Open a bundle's folder, its archive, or a shipped model by name, and check everything in it.

    A shipped name means the shipped model unless there is a bundle of that path. Raises `BundleError`, one line, if
    there is no such bundle, or if a file is missing, unlisted, altered, a link or outside the folder, the schema is
    unknown, the manifest is malformed, or a graph does not keep the contract.
    """
    path = Path(path_or_name)
    if path.is_file():
        return _open_archive(path)
    if (path / MANIFEST).is_file():
        return _open_folder(path)
    if str(path_or_name) in shipped_models():
        return _open_folder(_models_folder() / path_or_name)
    found = f"{path} has no {MANIFEST}" if path.exists() else f"{path}: no such bundle"
    names = ", ".join(shipped_models())
    raise BundleError(found, fix=OPEN_FIX + (f" ({names})" if names else ""))


def shipped_models() -> list[str]:
    """Return the names of the models that come with edgeseg, sorted."""
    folder = _models_folder()
    return sorted(child.name for child in folder.iterdir() if (child / MANIFEST).is_file()) if folder.is_dir() else []


def write_bundle(
    folder: Path,
    *,
    name: str,
    contract: Contract,
    stages: Mapping[Precision, Stage],
    golden: Golden,
    provenance: Provenance,
    reference_areas: Mapping[str, float] | None = None,
) -> Manifest:
    """Make a bundle of `folder`, which holds the graphs and golden frames: hash every file, write the manifest.

    Raises `BundleError` if `open_bundle` would refuse the outcome. The manifest's bytes follow from the arguments and
    the files alone.
    """
    listed = sorted(path for path in _files_below(folder) if path not in (MANIFEST, SIGNATURE))
    entries = {
        path: FileEntry(size=(folder / path).stat().st_size, sha256=sha256_file(folder / path)) for path in listed
    }
    try:
        manifest = Manifest(
            schema=SCHEMA,
            name=name,
            contract=contract,
            files=entries,
            stages=dict(stages),
            golden=golden,
            provenance=provenance,
            reference_areas=None if reference_areas is None else dict(reference_areas),
        )
    except ValidationError as error:
        raise invalid_manifest(error) from None
    write_json(folder / MANIFEST, manifest.model_dump(mode="json", by_alias=True, exclude_none=True))
    return _open_folder(folder).manifest


def pack_bundle(bundle: str | Path, archive: Path) -> None:
    """Write the bundle at `bundle` to the single file `archive`, whole or not at all.

    The same bundle gives the same bytes: names are sorted, times are fixed, and nothing is compressed, as weights do
    not shrink. Raises `BundleError` if `bundle` is not a sound bundle.
    """
    with open_bundle(bundle) as opened, whole_file(archive) as partial:
        write_archive(opened.path, _files_below(opened.path), partial)


def _models_folder() -> Path:
    return Path(str(resources.files("edgeseg.runtime"))) / "models"


def _open_folder(folder: Path) -> Bundle:
    folder = folder.resolve()
    found = _files_below(folder)  # before anything is read: the manifest may be a link too
    data = read_manifest(folder)
    manifest = parse_manifest(data)
    manifest.check_names(found)
    for path, entry in manifest.files.items():
        size = (folder / path).stat().st_size
        if size != entry.size:
            raise BundleError(f"{path} has {size} bytes", expected=f"{entry.size}", fix=COPY_FIX)
        if sha256_file(folder / path) != entry.sha256:
            raise BundleError(f"{path} was altered: its SHA-256 is not the manifest's", fix=COPY_FIX)
    for precision in manifest.precisions:
        _check_graph(model_name(precision), read_facts(folder / model_name(precision)), manifest.contract)
    return Bundle(folder, manifest, hashlib.sha256(data).hexdigest())


def _open_archive(path: Path) -> Bundle:
    folder = Path(tempfile.mkdtemp(prefix="edgeseg-bundle-"))
    try:
        unpack_archive(path, folder)
        bundle = _open_folder(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    bundle._remove_with_me(folder)
    return bundle


def _files_below(folder: Path) -> set[str]:
    """Return every file in `folder` as a relative path with slashes. Raises `BundleError` on anything but files."""
    found = set()
    for parent, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(parent) / name
            relative, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.add(relative)
            elif not stat.S_ISDIR(mode):
                raise BundleError(f"{relative} is not a regular file", fix="put the file itself there, not a link")
    return found


def _check_graph(file: str, facts: GraphFacts, contract: Contract) -> None:
    height, width = contract.size_hw
    fix = "export the network again"
    outputs = f"mask uint8 (1, {height}, {width})"
    if contract.confidence_hw is not None:
        outputs += " and {} uint8 (1, {}, {})".format(CONFIDENCE, *contract.confidence_hw)
    for kind, tensors, expected in (
        ("input", facts.inputs, f"frame uint8 (1, {height}, {width}, 3)"),
        ("output", facts.outputs, outputs),
    ):
        found = " and ".join(map(str, tensors)) or "nothing"
        if found != expected:
            raise BundleError(f"{file}: {kind} {found}", expected=expected, fix=fix)
    if facts.class_count != len(contract.classes):
        found = "an unknown number of" if facts.class_count is None else str(facts.class_count)
        raise BundleError(
            f"{file}: the graph decides between {found} classes",
            expected=f"{len(contract.classes)}, as the contract names",
            fix=fix,
        )


def _read_png(path: Path, mode: int, shape: tuple[int, ...]) -> Image:
    image = cv2.imread(str(path), mode)
    if image is None or image.shape != shape:
        found = "not a picture" if image is None else f"a picture of shape {image.shape}"
        raise BundleError(f"golden/{path.name} is {found}", expected=f"{shape}", fix=COPY_FIX)
    return image  # type: ignore[return-value]
