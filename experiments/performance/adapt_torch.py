"""The other side of the suite `adapt`: a BERT of transformers on PyTorch, eager, with mean pooling and a new head.

To be imported only where both are installed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers

from experiments.performance import torch_settings
from research.interop import loading
from research.interop.families import bert
from research.models.bert import Bert


class PyTorch:
    """A model with the weights of ours; each run takes the next of `batches` (tokens, mask, classes)."""

    def __init__(self, config: Any, model: Bert, variables: Any, batches: Iterator[tuple[np.ndarray, ...]]):
        torch_settings.begin()
        self._batches, self.losses = batches, []
        self._encoder, self._head = encoder_and_head(model, variables)
        parameters = [*self._encoder.parameters(), *self._head.parameters()]
        spec = config.optimizer
        self._optimizer = torch.optim.AdamW(
            parameters, spec.learning_rate, (spec.b1, spec.b2), spec.eps, spec.weight_decay, fused=True
        )
        self.num_params, self._tokens = sum(parameter.numel() for parameter in parameters), []

    @property
    def tokens(self) -> float:
        """The mean number of tokens of a step, with padding."""
        return float(np.mean(self._tokens))

    def run(self) -> None:
        """A training step on the next batch; its loss is added to `losses`."""
        tokens, mask, classes = map(torch.from_numpy, next(self._batches))
        features = self._encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(features.dtype)
        logits = self._head((features * weights).sum(1) / weights.sum(1))
        loss = torch.nn.functional.cross_entropy(logits, classes)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.losses.append(loss.item())
        self._tokens.append(tokens.numel())


def encoder_and_head(model: Bert, variables: Any) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """A BertModel without pooler, and a dense head, with the weights in `variables` of a `model` with pool="mean"."""
    leaves = {path: np.asarray(leaf) for path, leaf in loading.leaves_of(variables).items()}
    rows, tensors = {row.ours: row for row in bert.bert_table(model)}, {}
    for path, leaf in leaves.items():
        for name, make in rows[path].write(lambda leaf=leaf: leaf, leaf.shape):
            tensors[name] = torch.tensor(np.ascontiguousarray(make()))
    head = torch.nn.Linear(model.spec.width, model.num_classes)
    head.load_state_dict({name: tensors.pop(f"classifier.{name}") for name in ("weight", "bias")})
    config = transformers.BertConfig(
        **bert.bert_config(model.clone(num_classes=0)), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    encoder = transformers.BertModel(config, add_pooling_layer=False)
    encoder.load_state_dict({name.removeprefix("bert."): tensor for name, tensor in tensors.items()})
    return encoder.train(), head
