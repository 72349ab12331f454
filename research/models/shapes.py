"""Array types shared by several models, with named axes; checked by jaxtyping in tests."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

AnyArray = Array | np.ndarray
Images = Float[AnyArray, "batch height width channels"]
Clips = Float[AnyArray, "batch frames height width channels"]
FeatureMaps = tuple[Float[Array, "batch _ _ _"], ...]  # of a backbone or a pyramid, the finest first
Size = Any  # size of an axis: an int, or a symbolic dimension in an export for any batch size (jax.export)
