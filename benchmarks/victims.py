"""The bundle's own victim images, where this machine can load them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from records.errors import DataError, UnsupportedHereError
from records.manifest import Manifest
from runtime_check.victims import victims_for

Images = npt.NDArray[np.uint8]


def load_victims(manifest: Manifest) -> tuple[Images | None, str | None]:
    """Load the victims that the bundle's recipe names, proven by their hash; never download.

    Args:
        manifest: of a verified bundle.

    Returns:
        (uint8 (N, H, H, 3), None), or (None, why not).
    """
    recipe = replace(manifest.recipe, data=replace(manifest.recipe.data, download=False))
    try:
        return victims_for(replace(manifest, recipe=recipe)).images.images, None
    except (DataError, UnsupportedHereError) as error:
        return None, f"the victim images cannot be loaded here: {error}"
