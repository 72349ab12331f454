"""Fields shared by the specs of several models, and the construction of models from plain fields."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flax import linen as nn

from research.models import dot_product, layers
from research.models.mlp import ACTIVATIONS
from research.models.remat import REMAT
from research.spec import Spec, checks, field, invalid
from research.spec.fields import infos

DTYPE = "float32"

Model = TypeVar("Model", bound=nn.Module)

COUNT = checks.at_least(1)
LAYERS = checks.between(1, 10_000)
RATE = checks.from_up_to(0, 1)
EPSILON = checks.above(0) & checks.at_most(1)


def spec_class(model: type[nn.Module]) -> type[Spec]:
    """The spec class of a model."""
    return cast(Any, model).spec_class


def _from_fields(cls: type[Model], *sizes: Any, **fields: Any) -> Model:
    """Constructs a model from its own fields and those of its spec: `ViT.of(10, width=64)`. Raises FieldError."""
    inside = {each.name: fields.pop(each.name) for each in infos(spec_class(cls)) if each.name in fields}
    make = cast(Callable[..., Model], cls)
    return make(spec_class(cls)(**inside), *sizes, **fields)


from_fields = classmethod(_from_fields)


def _around(
    cls: type[Model], backbone: nn.Module, num_classes: int, dtype: str = DTYPE, param_dtype: str = DTYPE, **fields: Any
) -> Model:
    """Constructs a model with a backbone from fields of its spec: `Detector.of(backbone, 80, extra=2)`."""
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    known = {each.name for each in dataclasses.fields(cls)}
    make = cast(Callable[..., Model], cls)
    return make(
        backbone, spec_class(cls)(**fields), num_classes, **{name: dtypes[name] for name in dtypes if name in known}
    )


around = classmethod(_around)


class EncoderSpec(Spec):
    """A transformer encoder on patches of images of a fixed size."""

    image_size: int = field(default=224, check=checks.between(1, 65_536), doc="height and width of images in px")
    patch_size: int = field(default=16, check=checks.between(1, 65_536), doc="height and width of a patch in px")
    width: int = field(default=768, check=COUNT, doc="features of a token")
    depth: int = field(default=12, check=LAYERS, doc="layers")
    mlp_dim: int = field(default=3072, check=COUNT, doc="hidden features of the MLP")
    num_heads: int = field(default=12, check=COUNT, doc="attention heads")
    dropout: float = field(default=0.0, check=RATE, doc="dropout rate of embeddings, hidden features and branches")
    stochastic_depth: float = field(default=0.0, check=RATE, doc="rate of the last layer; it grows linearly from 0")
    layer_norm_epsilon: float = field(default=1e-6, check=EPSILON, doc="added to the variance in every norm")
    gelu: str = field(default="exact", check=checks.one_of(*layers.GELU), doc="form of the activation")
    qkv_bias: bool = field(default=True, doc="biases of query, key and value")
    key_bias: bool = field(default=True, doc="bias of the key; only with qkv_bias")
    qk_norm: bool = field(default=False, doc="normalise queries and keys (Dehghani et al., 2023)")
    norm: str = field(default="layer", check=checks.one_of(*layers.NORMS), doc="layer norm or RMS norm")
    attention: str = field(default="auto", check=checks.one_of(*dot_product.ATTENTION), doc="implementation")
    remat: str = field(default="none", check=checks.one_of(*REMAT), doc="rematerialisation policy, see remat.py")
    unroll: int = field(default=1, check=COUNT, doc="layers unrolled per scan iteration")

    def validate(self) -> None:
        """Raises FieldError for inconsistent sizes."""
        for name, divisor in (("image_size", "patch_size"), ("width", "num_heads")):
            if getattr(self, name) % getattr(self, divisor):
                raise invalid(self, name, f"must be a multiple of {divisor}={getattr(self, divisor)}")


class LayerSpec(Spec):
    """The fields of the layers of an encoder-decoder."""

    width: int = field(default=512, check=checks.at_least(1), doc="features of a token")
    num_heads: int = field(default=6, check=checks.at_least(1), doc="attention heads")
    kv_dim: int = field(default=64, check=checks.at_least(1), doc="features of queries, keys and values per head")
    mlp_dim: int = field(default=1024, check=checks.at_least(1), doc="hidden features of an MLP")
    norm: str = field(default="rms", check=checks.one_of(*layers.NORMS), doc="the kind of norm")
    norm_epsilon: float = field(
        default=1e-6, check=checks.above(0) & checks.at_most(1), doc="added to the variance in a norm"
    )
    norm_position: str = field(
        default="pre", check=checks.one_of("pre", "post"),
        doc="placement of norms in a layer; pre has an additional norm at the end of each stack",
    )  # fmt: skip
    activation: str = field(default="gelu_tanh", check=checks.one_of(*ACTIVATIONS), doc="activation of MLPs")
    gated: bool = field(default=True, doc="gated MLPs (Shazeer, 2020)")
    bias: bool = field(default=False, doc="attention and MLPs have biases")
    key_bias: bool = field(default=True, doc="keys have a bias too; only with bias")
    attention_scale: bool = field(default=False, doc="divide the logits of attention by sqrt(kv_dim)")
    dropout: float = field(default=0.0, check=checks.from_up_to(0, 1), doc="dropout rate")
