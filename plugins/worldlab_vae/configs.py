"""Settings of the variational family. Torch-free, so that `--help` is."""

from __future__ import annotations

from typing import Literal

from worldlab import Config, field


class VAEEncoderConfig(Config):
    """The amortised posterior."""

    latent: Literal["gaussian", "categorical"] = "gaussian"
    """Kind of latent. categorical is DreamerV3's: groups of one-hots with straight-through gradients."""
    latent_dim: int = field(32, gt=0)
    """Width of a gaussian z."""
    groups: int = field(32, gt=0)
    """Categorical variables in a categorical z."""
    classes: int = field(32, gt=1)
    """Classes of each."""
    unimix: float = field(0.01, ge=0, lt=1)
    """Share of a uniform mixed into categorical posteriors, so that no class dies."""
    network: Literal["normed", "plain"] = "normed"
    """Convolutions. normed: padded, with layer norms. plain: those of World Models, of 4 stages and width 32 there."""
    width: int = field(16, gt=0)
    """Channels after the first convolution; they double at each halving of the picture."""
    units: int = field(128, gt=0)
    """Width of the MLPs."""
    layers: int = field(2, ge=1)
    """Layers of the MLP that reads vectors."""
    head_layers: int = field(1, ge=0)
    """Hidden layers between the trunk (and the memory) and the latent; World Models has none."""
    min_std: float = field(0.05, gt=0)
    """Smallest standard deviation of a gaussian posterior."""


class VAEDynamicsConfig(Config):
    """The recurrent state-space model."""

    memory: int = field(256, gt=0)
    """Width H of the recurrent memory."""
    units: int = field(128, gt=0)
    """Width of the layers before and after the memory."""
    unimix: float = field(0.01, ge=0, lt=1)
    """Share of a uniform mixed into categorical priors."""
    min_std: float = field(0.05, gt=0)
    """Smallest standard deviation of a gaussian prior."""


class VAEDecoderConfig(Config):
    """The factorised decoder."""

    likelihood: Literal["mse", "learned"] = "mse"
    """mse: a Gaussian of fixed std. learned: scales are learned (discretised logistic for images, Gaussian for vectors)."""
    std: float = field(1.0, gt=0)
    """Standard deviation of the mse likelihood, in scaled units; smaller weighs reconstruction more."""
    network: Literal["normed", "plain"] = "normed"
    """Transposed convolutions. normed: padded, with layer norms. plain: those of World Models, for pictures up to 64 x 64."""
    width: int = field(16, gt=0)
    """Channels before the last transposed convolution."""
    units: int = field(128, gt=0)
    """Width of the MLP that explains vectors."""
    layers: int = field(2, ge=1)
    """Layers of that MLP."""
    frames: int = field(0, ge=0)
    """Random frames of a batch explained in one update; 0 means all of them."""
