"""Chinese to English: Tatoeba, 25,626 pairs of short sentences.

    python -m research.data prepare tatoeba_zh_en --manual_dir=$DATA/tatoeba_zh_en
    python -m experiments.translation.main \\
      --config=configs/translation/tatoeba_zh_en.py:cpu --workdir=runs/tatoeba_zh_en

Model and training are those of multi30k_en_de.py, with a vocabulary of 8k in which every Chinese character is one token
(the data mix simplified and traditional characters). Metrics: BLEU and chrF.
`full`: 80 epochs, meant for one GPU. `cpu`: 8 epochs, 30 minutes on 2 CPU cores. `smoke`: number words to digits,
seconds on a CPU.
Reference: none is published for this split, in which no sentence of either language occurs in two parts.
"""

from ml_collections import ConfigDict

from configs.translation import tatoeba_en_zh
from experiments.translation.experiment import Translation

EXPERIMENT = Translation
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/bleu",
    "also": ("test/chrf",),
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS: that of `tatoeba_en_zh` with the languages exchanged."""
    config = tatoeba_en_zh.get_config(variant)
    config.task.metrics = ("bleu", "chrf")
    if variant != "smoke":
        config.data.update(source="{zh}", target="{en}")
    if variant == "full":
        config.data.update(source_length=128, target_length=104)
    return config
