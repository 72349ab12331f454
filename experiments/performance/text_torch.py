"""The other side of the suite `text`: T5 of transformers on PyTorch, eager, as their documentation says to use them.

To be imported only where both are installed.
"""

import numpy as np
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

from experiments.performance import torch_settings
from experiments.performance.text_shapes import Shapes, beams, dtype


class PyTorch:
    """A T5 with random weights, set up for one kind of work; `compiled` applies to training."""

    def __init__(self, shapes: Shapes, work: str, compiled: bool = False):
        torch_settings.begin()
        self._beams, self._model = beams(work), _random_t5(shapes).to(getattr(torch, dtype(work)))
        self._model.train(not self._beams)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), shapes.learning_rate, weight_decay=shapes.weight_decay, fused=True
        )
        source, self._target = (torch.tensor(tokens, dtype=torch.long) for tokens in shapes.tokens())
        self._inputs = {"input_ids": source, "attention_mask": torch.ones_like(source)}
        self.num_params = sum(parameter.numel() for parameter in self._model.parameters())
        self._forward = torch.compile(self._model) if compiled else self._model

    def run(self) -> np.ndarray:
        """Runs a training step and returns its loss, or decodes and returns tokens [batch, target length]."""
        return self._decode() if self._beams else self._train()

    def _train(self):
        loss = self._forward(**self._inputs, labels=self._target).loss
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach().numpy()

    def _decode(self):
        count = self._target.shape[1]
        with torch.inference_mode():
            tokens = self._model.generate(
                **self._inputs, max_new_tokens=count, num_beams=self._beams, do_sample=False, use_cache=True
            )
        return tokens[:, 1:].numpy()  # without the start token


def _random_t5(shapes):
    size = shapes.model
    config = transformers.T5Config(
        vocab_size=shapes.vocab_size, d_model=size["width"], d_kv=size["kv_dim"], d_ff=size["mlp_dim"],
        num_layers=size["encoder_depth"], num_decoder_layers=size["decoder_depth"], num_heads=size["num_heads"],
        feed_forward_proj="gated-gelu", dropout_rate=shapes.dropout, tie_word_embeddings=False,
        decoder_start_token_id=0, eos_token_id=None,  # decoding never ends early
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    # transformers 5 ties the weights of every T5 that it makes; T5 v1.1 has a head of its own.
    head = model.lm_head
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight) * size["width"] ** -0.5)
    for module in model.modules():
        if isinstance(module, T5Attention):
            module.dropout = 0.0  # attention dropout, which Tessera does not have
    return model
