"""Image and label files read as numbers, without surprises.

OpenCV hides things that matter for labels: it stretches 4-bit grey to 0..255, turns a PNG's palette indices into
colours, turns photos by their EXIF tag, and, in older versions, returns half a picture from half a file. Here the
file's own header is consulted, so that a label comes out as it was written and a damaged file is refused.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import WHITE_LEVEL, Image

IMAGE_ENDINGS = frozenset(
    (".bmp", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
"""Lower-case file endings that are taken for images."""

Rgb = tuple[int, int, int]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_INDEXED, _PNG_GREY_ALPHA = 0, 3, 4
_JPEG = b"\xff\xd8\xff"
_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_log_level_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelPixels:
    """A label file's samples: numbers if `pixels` is (H, W), colours if it is (H, W, 3) BGR uint8."""

    pixels: npt.NDArray[Any]
    colour_table: tuple[Rgb, ...] | None = None
    """A palette PNG's own colours in index order; None for every other file."""


def read_image(path: Path, *, white_level: int = WHITE_LEVEL) -> Image:
    """Read a photo as (H, W, 3) BGR uint8; grey is spread, alpha is dropped, 16 bits become 8 as `to_8_bits` does it.

    EXIF orientation is ignored: labels are drawn on the stored pixels, so both stay aligned. Raises `DatasetError`
    that names the file if it is absent, damaged or not an image.
    """
    return to_8_bits(read_samples(path), white_level)


def read_samples(path: Path) -> npt.NDArray[Any]:
    """Read a photo's samples, (H, W, 3) BGR, uint16 where the file has more than 8 bits; else as `read_image`."""
    return _whole_numbers(path, _decode(path, _read_bytes(path), _STORED))


def to_8_bits(samples: npt.NDArray[Any], white_level: int) -> Image:
    """Scale uint16 samples so that `white_level` and what is above it become 255; uint8 ones are given back.

    Microscopes and thermal cameras put 10 to 14 bits into 16: scaled from 65535 they would be nearly black.
    """
    return samples if samples.dtype == np.uint8 else cv2.convertScaleAbs(samples, alpha=255 / white_level)  # type: ignore[return-value]


def white_level_for(peak: int) -> int:
    """Return the white level that images of more than 8 bits seem to mean whose largest sample is `peak`."""
    return WHITE_LEVEL if peak >= WHITE_LEVEL // 2 else max(256, (1 << peak.bit_length()) - 1)


def read_upright(path: Path) -> tuple[npt.NDArray[Any], bool]:
    """Read a photo's samples as people see them, and whether its EXIF orientation turned or mirrored them."""
    data = _read_bytes(path)
    stored = _whole_numbers(path, _decode(path, data, _STORED))
    if not any(mark in data for mark in (b"Exif", b"eXIf", b"EXIF")):
        return stored, False
    upright = _decode(path, data, _STORED & ~cv2.IMREAD_IGNORE_ORIENTATION)
    return upright, not np.array_equal(upright, stored)


def read_label_pixels(path: Path) -> LabelPixels:
    """Read a label file's samples as they were written, whatever their bit depth; alpha is dropped.

    Raises `DatasetError` that names the file if it is absent, damaged, not an image, or neither grey nor 8-bit colour.
    """
    data = _read_bytes(path)
    pixels: npt.NDArray[Any] = _decode(path, data, cv2.IMREAD_UNCHANGED)
    colour_table = None
    if data.startswith(_PNG):
        chunks = dict(_png_chunks(data))
        bit_depth, colour_type = chunks[b"IHDR"][8:10]
        if colour_type == _PNG_GREY and bit_depth < 8:
            pixels = pixels // (255 // (2**bit_depth - 1))
        elif colour_type == _PNG_GREY_ALPHA:
            pixels = pixels[..., 0]
        elif colour_type == _PNG_INDEXED:
            entries = chunks.get(b"PLTE", b"")
            colour_table = tuple(zip(entries[0::3], entries[1::3], entries[2::3], strict=True))
    colour = pixels.ndim == 3
    if pixels.dtype != np.uint8 and (colour or pixels.dtype != np.uint16):
        raise DatasetError(
            f"{path}: {pixels.dtype} {'colour' if colour else 'grey'} label",
            expected="8- or 16-bit grey indices or 8-bit RGB colours",
            fix="save the label as 8-bit PNG",
        )
    return LabelPixels(pixels=pixels[..., :3] if colour else pixels, colour_table=colour_table)


def _whole_numbers(path: Path, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if samples.dtype not in (np.uint8, np.uint16):
        raise DatasetError(
            f"{path}: {samples.dtype} samples", expected="8 or 16 bits a sample", fix="save it as 16-bit TIFF or PNG"
        )
    return samples


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}", expected="a readable image file") from None


def _undecodable(path: Path, why: str) -> DatasetError:
    return DatasetError(f"{path}: {why}", expected="a whole image file", fix="replace the file or remove the pair")


def _decode(path: Path, data: bytes, flags: int) -> npt.NDArray[Any]:
    if damage := _damage(data):
        raise _undecodable(path, damage)
    try:
        if data.startswith((_PNG, _JPEG)):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        else:
            pixels = _decode_quietly(data, flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise _undecodable(path, "OpenCV cannot decode it")
    return pixels


def _decode_quietly(data: bytes, flags: int) -> Any:
    # OpenCV logs what its rarer decoders dislike. Its level is the whole process's, hence one file at a time.
    log = getattr(getattr(cv2, "utils", None), "logging", None)
    with _log_level_lock:
        before = log.setLogLevel(log.LOG_LEVEL_SILENT) if log else None
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        finally:
            if log:
                log.setLogLevel(before)


def _damage(data: bytes) -> str:
    """Say what is visibly wrong with a file before a decoder sees it: "" if nothing is."""
    if not data:
        return "empty file"
    if data.startswith(_PNG):
        try:
            names = {name for name, _ in _png_chunks(data)}
        except ValueError as error:
            return str(error)
        return "" if {b"IHDR", b"IDAT"} <= names else "PNG without a picture"
    # Within a scan 0xff is always escaped, so a start of scan with no end of image behind it was cut short.
    if data.startswith(_JPEG) and data.rfind(b"\xff\xda") >= data.rfind(b"\xff\xd9"):
        return "JPEG cut short"
    return ""


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk up to IEND. Raises `ValueError` where the file is cut or altered."""
    position, name = len(_PNG), b""
    while name != b"IEND":
        header = data[position : position + 8]
        if len(header) < 8:
            raise ValueError("PNG cut short")
        length, name = struct.unpack(">I4s", header)
        content = data[position + 8 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if len(checksum) < 4:
            raise ValueError("PNG cut short")
        if zlib.crc32(name + content) != int.from_bytes(checksum, "big"):
            raise ValueError(f"PNG damaged (checksum of its {name.decode('latin-1')} chunk)")
        yield name, content
        position += 12 + length
