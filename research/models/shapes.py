"""Types of the arrays that several models take, by the names of their axes; jaxtyping checks them while tests run."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

AnyArray = Array | np.ndarray
Images = Float[AnyArray, "batch height width channels"]
Clips = Float[AnyArray, "batch frames height width channels"]
FeatureMaps = tuple[Float[Array, "batch _ _ _"], ...]  # of a backbone or a pyramid, the finest first
Size = Any  # of an axis: an int, or a symbolic dimension where a program is exported for any batch (jax.export)
