"""PyTorch's side of the suite `images`: ViT of transformers, and a ResNet and a U-Net as torchvision writes them.

To be imported only where torch and transformers are installed.
"""

from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional

from experiments.performance import torch_settings
from research.models.vit import ViTSpec


class PyTorch:
    """Training steps of the model of a config on one batch, with the config's optimizer in its fused form."""

    def __init__(
        self, config: Any, task: Any, batch: dict[str, np.ndarray], compiled: bool = False, layout: str = "NCHW"
    ):
        torch_settings.begin()
        memory = torch.channels_last if layout == "channels last" else torch.contiguous_format
        model = make_model(config.model, task.model.num_classes, task.image_shape).to(memory_format=memory).train()
        self.num_params = sum(parameter.numel() for parameter in model.parameters())
        self._model = torch.compile(model) if compiled else model
        self._optimizer = _optimizer(config.optimizer, model)
        self._images = torch.tensor(batch["image"]).permute(0, 3, 1, 2).contiguous(memory_format=memory)
        self._labels = torch.tensor(batch["mask" if "mask" in batch else "label"], dtype=torch.long)
        self._mean, self._std = (torch.tensor(each).view(1, -1, 1, 1) for each in (task.mean, task.std))

    def run(self) -> np.ndarray:
        """One training step, which returns its loss."""
        logits = self._model((self._images.float() - self._mean) / self._std)
        loss = functional.cross_entropy(logits, self._labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach().numpy()


def make_model(spec: Any, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The model of a `ViTSpec`, a `ResNetSpec` or that with the decoder of a U-Net, with random weights."""
    if isinstance(spec, ViTSpec):
        return _ViT(spec, num_classes, image_shape)
    backbone = ResNet(spec, image_shape[-1])
    return UNet(backbone, spec, num_classes) if hasattr(spec, "decoder") else Classifier(backbone, num_classes)


def _optimizer(spec: Any, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD at a constant learning rate, over all parameters."""
    options = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay, "fused": True}
    if spec.tag == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=spec.momentum, nesterov=spec.nesterov, **options)
    return torch.optim.AdamW(model.parameters(), betas=(spec.b1, spec.b2), eps=spec.eps, **options)


class _ViT(nn.Module):
    """That of transformers, whose attention is `scaled_dot_product_attention`."""

    def __init__(self, spec: ViTSpec, num_classes: int, image_shape: tuple[int, int, int]):
        super().__init__()
        config = transformers.ViTConfig(
            hidden_size=spec.width, num_hidden_layers=spec.depth, num_attention_heads=spec.num_heads,
            intermediate_size=spec.mlp_dim, hidden_act="gelu", layer_norm_eps=spec.layer_norm_epsilon,
            image_size=image_shape[0], patch_size=spec.patch_size, num_channels=image_shape[-1],
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=num_classes,
            attn_implementation="sdpa",
        )  # fmt: skip
        self.model = transformers.ViTForImageClassification(config)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [batch, channels, height, width] to logits [batch, classes]."""
        return self.model(pixel_values=images).logits


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def _conv_norm(inputs: int, outputs: int, size: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    parts = [_conv(inputs, outputs, size, stride), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *[nn.ReLU(inplace=True)] * relu)


class Block(nn.Module):
    """Convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
        super().__init__()
        self.outputs = features * (4 if bottleneck else 1)
        if bottleneck:
            self.branch = nn.Sequential(
                _conv_norm(inputs, features, 1), _conv_norm(features, features, 3, stride),
                _conv_norm(features, self.outputs, 1, relu=False),
            )  # fmt: skip
        else:
            self.branch = nn.Sequential(
                _conv_norm(inputs, features, 3, stride), _conv_norm(features, features, 3, relu=False)
            )
        same = inputs == self.outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv_norm(inputs, self.outputs, 1, stride, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] to such."""
        return functional.relu(self.branch(x) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """The maps of all stages of a `ResNetSpec`, the finest first."""

    def __init__(self, spec: Any, inputs: int):
        super().__init__()
        size, stride = {"imagenet": (7, 2), "half": (3, 2), "cifar": (3, 1)}[spec.stem]
        stem = [_conv_norm(inputs, spec.width, size, stride)]
        if spec.stem == "imagenet":
            stem.append(nn.MaxPool2d(3, 2, 1))
        self.stem, self.stages, self.channels = nn.Sequential(*stem), nn.ModuleList(), []
        channels = spec.width
        for stage, count in enumerate(spec.stage_sizes):
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(Block(channels, spec.width * 2**stage, stride, spec.block == "bottleneck"))
                channels = blocks[-1].outputs
            self.stages.append(nn.Sequential(*blocks))
            self.channels.append(channels)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Images [batch, channels, height, width] to maps [batch, channels, height, width]."""
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class Classifier(nn.Module):
    """A ResNet with a dense layer over the mean of its last map."""

    def __init__(self, backbone: ResNet, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(self.backbone.channels[-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [batch, channels, height, width] to logits [batch, classes]."""
        return self.head(self.backbone(images)[-1].mean((2, 3)))


class UNet(nn.Module):
    """A ResNet, and from its coarsest map on twice as large, beside the next finer map, a 3x3 convolution of both."""

    def __init__(self, backbone: ResNet, spec: Any, num_classes: int):
        super().__init__()
        self.backbone, self.levels = backbone, nn.ModuleList()
        *finer, channels = self.backbone.channels
        for beside, features in zip(reversed(finer), spec.decoder_channels, strict=True):
            self.levels.append(_conv_norm(channels + beside, features, 3))
            channels = features
        self.drop = nn.Dropout2d(spec.decoder_dropout)
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [batch, channels, height, width] to logits [batch, classes, height, width]."""
        *finer, x = self.backbone(images)
        for beside, level in zip(reversed(finer), self.levels, strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")[..., : beside.shape[2], : beside.shape[3]]
            x = level(torch.cat([x, beside], dim=1))
        return functional.interpolate(self.head(self.drop(x)), images.shape[2:], mode="bilinear", align_corners=False)
