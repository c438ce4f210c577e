"""The golden frames of a bundle, and a dataset's own pictures, through the backend that would run it here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.export.parity import choose_pairs
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.commands.common import progress
from edgeseg.runtime.contract import Fitter
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.evaluate import check_classes
from edgeseg.runtime.frame import Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Share of a golden frame's pixels that come out as they must, 0 to 1, and the share that the manifest requires."""

    precision: str
    frame: str
    agreement: float
    required: float

    @property
    def holds(self) -> bool:
        return self.agreement >= self.required

    def __str__(self) -> str:
        return f"golden frame {self.frame} in {self.precision}: {self.agreement:.2%} of the pixels agree"


def check_golden(bundle: Bundle) -> list[Agreement]:
    """Run every golden frame in every precision of `bundle` for which the manifest requires an agreement.

    Raises `BackendError` if ONNX Runtime is missing or refuses a graph.
    """
    found = []
    frames = bundle.golden_frames()
    for precision, required in bundle.manifest.golden.agreement.items():
        backend = open_backend(bundle, backend="ort", precision=precision)
        try:
            for name, frame, mask in frames:
                share = float(np.mean(backend.infer(np.ascontiguousarray(frame[None]))[0] == mask))
                found.append(Agreement(precision=precision, frame=name, agreement=share, required=required))
        finally:
            backend.close()
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class RealAgreement:
    """Share of the pixels of real pictures that come out as in fp32, 0 to 1."""

    precision: str
    split: str
    images: int
    agreement: float

    def __str__(self) -> str:
        return (
            f"{self.images} pictures of {self.split} in {self.precision}: {self.agreement:.2%} of the pixels as in fp32"
        )


def compare_on_dataset(bundle: Bundle, dataset: Dataset, split: str) -> list[RealAgreement]:
    """Return on which share of the pixels of real pictures each precision gives fp32's class. Nothing is stored.

    At most `edgeseg.export.parity.MAX_IMAGES` pictures, spread over `split`; nothing is required of them. Raises
    `DatasetError` if there is no such split or its classes are not the bundle's, `ExportError` without an fp32 graph.
    """
    check_classes(bundle.contract, dataset)
    pairs = choose_pairs(dataset, split)
    others = [precision for precision in bundle.precisions if precision != "fp32"]
    if len(others) == len(bundle.precisions):
        raise ExportError(f"bundle {bundle.name!r} has no fp32 graph to compare with", fix="export that precision too")
    found, masks = [], list[Mask]()
    with progress("comparing on real pictures", total=len(pairs) * len(bundle.precisions)) as advance:
        for precision in ("fp32", *others):
            backend = open_backend(bundle, backend="ort", precision=precision)
            shares = []
            try:
                for index, pair in enumerate(pairs):
                    image = dataset.read_image(pair)
                    mask = backend.infer(Fitter(bundle.contract, (image.shape[0], image.shape[1])).fit(image))
                    if precision == "fp32":
                        masks.append(mask)
                    shares.append(float(np.mean(mask == masks[index])))
                    advance()
            finally:
                backend.close()
            if precision != "fp32":
                agreement = float(np.mean(shares))
                found.append(RealAgreement(precision=precision, split=split, images=len(pairs), agreement=agreement))
    return found
