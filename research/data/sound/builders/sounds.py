"""Base class of the builders of speech. Samples are stored at the rate of their file."""

from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from research.data.sound import files as sound_files
from research.data.text.builders.texts import TEXT, TextBuilder


class SoundBuilder(TextBuilder, skip_registration=True):
    """A builder of `audio` int16 [samples], its `rate` in Hz, its transcript `text`, and the `speaker` ("": unknown).

    See TextBuilder for what a subclass defines.
    """

    fields: ClassVar = {
        "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16),
        "rate": tfds.features.Scalar(dtype=np.int32),
        "text": TEXT,
        "speaker": TEXT,
    }


def example(sound: sound_files.Sound, text: str, speaker: str = "") -> dict[str, Any]:
    """The fields of an example."""
    return {"audio": sound_files.to_int16(sound.samples), "rate": sound.rate, "text": text, "speaker": speaker}
