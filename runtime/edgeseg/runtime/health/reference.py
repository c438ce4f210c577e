"""What class areas are usual for a bundle."""

from __future__ import annotations

import numpy as np

from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.health.monitor import Reference, class_areas


def find_reference(bundle: Bundle) -> Reference | None:
    """Return the class areas that `bundle` names, else those of its golden masks; None without either."""
    named = bundle.manifest.reference_areas
    if named:
        return Reference(areas=named, origin="bundle's")
    classes = bundle.contract.classes
    masks = [class_areas(mask, len(classes)) for _, _, mask in bundle.golden_frames()]
    if not masks:
        return None
    areas = np.mean(masks, axis=0)
    return Reference(areas=dict(zip(classes, areas.tolist(), strict=True)), origin="golden masks")
