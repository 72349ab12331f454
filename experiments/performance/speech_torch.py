"""The other side of the suite `speech`: Whisper of transformers on PyTorch, eager, as their documentation says.

To be imported only where both are installed.
"""

import numpy as np
import torch
import transformers

from experiments.performance import torch_settings
from experiments.performance.speech_shapes import RATE, Shapes


class PyTorch:
    """A Whisper with random weights, set up for one kind of work; `compiled` applies to training."""

    def __init__(self, shapes: Shapes, work: str, compiled: bool = False):
        torch_settings.begin()
        self._work, self._model = work, _random_whisper(shapes).train(work == "train")
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), shapes.learning_rate, weight_decay=shapes.weight_decay, fused=True
        )
        self._extract = transformers.WhisperFeatureExtractor(feature_size=shapes.mels, sampling_rate=RATE)
        self._sounds, self._count = shapes.sounds(work), shapes.target_length
        self._features, self._target = self._inputs(), torch.tensor(shapes.targets(), dtype=torch.long)
        trained = [each for each in self._model.parameters() if each.requires_grad]
        self.num_params = sum(parameter.numel() for parameter in trained)  # without the sinusoids
        self._forward = torch.compile(self._model) if compiled else self._model

    def run(self) -> np.ndarray:
        """Runs a training step and returns its loss, or transcribes and returns tokens [batch, target length]."""
        return self._train() if self._work == "train" else self._transcribe()

    def _inputs(self):
        return self._extract(self._sounds, sampling_rate=RATE, return_tensors="pt").input_features

    def _train(self):
        loss = self._forward(input_features=self._features, labels=self._target).loss
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach().numpy()

    def _transcribe(self):
        with torch.inference_mode():
            tokens = self._model.generate(
                self._inputs(), max_new_tokens=self._count, min_new_tokens=self._count, num_beams=1, do_sample=False
            )
        return tokens[:, -self._count :].numpy()


def _random_whisper(shapes):
    size, last = shapes.model, shapes.vocab_size - 1
    config = transformers.WhisperConfig(
        vocab_size=shapes.vocab_size, num_mel_bins=shapes.mels, d_model=size["width"],
        encoder_layers=size["encoder_depth"], decoder_layers=size["decoder_depth"],
        encoder_attention_heads=size["num_heads"], decoder_attention_heads=size["num_heads"],
        encoder_ffn_dim=size["mlp_dim"], decoder_ffn_dim=size["mlp_dim"], pad_token_id=last, bos_token_id=last,
        eos_token_id=last, decoder_start_token_id=last - 1, begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)
