"""German to English: Multi30k, image captions, 29,000 sentence pairs.

    python -m research.data prepare multi30k --manual_dir=$DATA/multi30k
    python -m experiments.translation.main \\
      --config=configs/translation/multi30k_de_en.py:cpu --workdir=runs/multi30k_de_en

`full`: the transformer "tiny" of Wu et al., "Good for Misconceived Reasons: An Empirical Revisiting on the Need for
Visual Context in Multimodal Machine Translation", 2021: 4 layers of width 128, dropout 0.3, label smoothing 0.1, joint
vocabulary of 10k, batches of 4,096 tokens, learning rate 5e-3 after 2k steps of warm-up, beam 5; found better there
than larger ones. Here layers are pre-norm, and an exponential moving average of the weights replaces the average of ten
checkpoints. Meant for one GPU.
`cpu`: the same model for 10 epochs of batches of 1,024 tokens, with less dropout and a vocabulary of 6k; 30 minutes on
2 CPU cores. `smoke`: number words to digits, seconds on a CPU.
Reference: a widely used tutorial (bentrevett/pytorch-seq2seq, "Attention is All You Need", width 256) reports 36.5, as
tokenised, lower-cased BLEU, which is not comparable with sacreBLEU of raw text, as here.
"""

from ml_collections import ConfigDict

from configs.translation import multi30k_en_de
from experiments.translation.experiment import Translation

EXPERIMENT = Translation
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/bleu",
    "also": ("test/chrf",),
    "reference": 36.5,
    "reference_source": "transformer of a tutorial (bentrevett/pytorch-seq2seq), BLEU of lower-cased tokens",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS: that of `multi30k_en_de` with the languages exchanged."""
    config = multi30k_en_de.get_config(variant)
    if variant != "smoke":
        config.data.update(source="{de}", target="{en}")
    return config
