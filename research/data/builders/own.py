"""Type annotations that TFDS lacks for its builders."""

from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds


class OwnBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder whose `info` always has features; the annotations of TFDS allow None."""

    if TYPE_CHECKING:

        @property
        def info(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  theirs is memoised
            """A tfds.core.DatasetInfo."""

        @property
        def builder_config(self) -> Any:
            """A tfds.core.BuilderConfig, for builders that have some."""
