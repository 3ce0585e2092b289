"""Settings of the variational family. Torch-free, so that `--help` is."""

from __future__ import annotations

from typing import ClassVar, Literal

from worldlab import Config, field, sized

UNIMIX = 0.01
"""Share of a uniform mixed into categorical posteriors and priors, so that no class dies: DreamerV3, arXiv:2301.04104."""
MIN_STD = 0.05
"""Smallest standard deviation of a Gaussian posterior or prior: a density must not become infinite."""


class VAEEncoderConfig(Config):
    """The amortised posterior."""

    latent: Literal["gaussian", "categorical"] = "gaussian"
    """Kind of latent. categorical is DreamerV3's: groups of one-hots with straight-through gradients."""
    latent_dim: int = sized(nano=8, tiny=32, small=32, medium=32, large=32, gt=0)
    """Width of a gaussian z."""
    groups: int = sized(nano=2, tiny=32, small=32, medium=32, large=32, gt=0)
    """Categorical variables in a categorical z."""
    classes: int = sized(nano=4, tiny=32, small=32, medium=32, large=32, gt=1)
    """Classes of each categorical variable."""
    network: Literal["normed", "plain"] = field("normed", expert=True)
    """Convolutions. normed: padded, with layer norms. plain: those of World Models, of 4 stages and width 32 there."""
    width: int = sized("width", gt=0)
    """Channels after the first convolution; they double at each halving of the picture."""
    units: int = sized("units", gt=0)
    """Width of the MLPs."""
    head_layers: int = field(1, ge=0, expert=True)
    """Hidden layers between the trunk (and the memory) and the latent; World Models has none."""
    layers: ClassVar[int] = 2
    """Layers of the MLP that reads vectors."""
    unimix: ClassVar[float] = UNIMIX
    min_std: ClassVar[float] = MIN_STD


class VAEDynamicsConfig(Config):
    """The recurrent state-space model."""

    memory: int = sized("memory", gt=0)
    """Width H of the recurrent memory."""
    units: int = sized("units", gt=0)
    """Width of the layers before and after the memory."""
    unimix: ClassVar[float] = UNIMIX
    min_std: ClassVar[float] = MIN_STD


class VAEDecoderConfig(Config):
    """The factorised decoder."""

    likelihood: Literal["mse", "learned"] = "mse"
    """mse: a Gaussian of fixed std. learned: scales are learned (discretised logistic for images, Gaussian for vectors)."""
    std: float = field(1.0, gt=0)
    """Standard deviation of the mse likelihood, in scaled units; smaller weighs reconstruction more."""
    network: Literal["normed", "plain"] = field("normed", expert=True)
    """Transposed convolutions. normed: padded, with layer norms. plain: those of World Models, for pictures up to 64 x 64."""
    width: int = sized("width", gt=0)
    """Channels before the last transposed convolution."""
    units: int = sized("units", gt=0)
    """Width of the MLP that explains vectors."""
    frames: int = field(0, ge=0)
    """Random frames of a batch explained in one update; 0 means all of them."""
    layers: ClassVar[int] = 2
    """Layers of the MLP that explains vectors."""
