"""The bundle's own victim images, where this machine can load them."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from records.errors import DataError, UnsupportedHereError
from records.manifest import Manifest

Images = npt.NDArray[np.uint8]


def load_victims(manifest: Manifest) -> tuple[Images | None, str | None]:
    """Load the victims that the bundle's recipe names; nothing is downloaded.

    Args:
        manifest: of a verified bundle.

    Returns:
        (uint8 (N, H, H, 3), None), or (None, why not).
    """
    from baseline.datasets import load_splits

    recipe = msgspec.structs.replace(manifest.recipe.data, download=False)
    try:
        splits = load_splits(recipe)
    except (DataError, UnsupportedHereError) as error:
        return None, f"the victim images cannot be loaded here: {error}"
    if splits.record.victim != manifest.data.victim:
        return None, f"{recipe.source} holds other images here than those of the bundle"
    return splits.victim.images, None
