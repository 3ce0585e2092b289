"""Settings of the variational family. Importable without torch, so that `--help` is fast."""

from __future__ import annotations

from typing import ClassVar, Literal

from worldlab import Config, component, field, sized

UNIMIX = 0.01
"""Share of a uniform mixed into categorical posteriors and priors, which keeps every class possible: DreamerV3,
arXiv:2301.04104."""
MIN_STD = 0.05
"""Smallest standard deviation of a Gaussian posterior or prior, which bounds its density."""


class VAEEncoderConfig(Config):
    """Settings of the amortised posterior."""

    latent: Literal["gaussian", "categorical"] = "gaussian"
    """Kind of latent. categorical: groups of one-hots with straight-through gradients, as in DreamerV3."""
    latent_dim: int = sized(nano=8, tiny=32, small=32, medium=32, large=32, gt=0)
    """Width of a Gaussian z."""
    groups: int = sized(nano=2, tiny=32, small=32, medium=32, large=32, gt=0)
    """Number of categorical variables in a categorical z."""
    classes: int = sized(nano=4, tiny=32, small=32, medium=32, large=32, gt=1)
    """Classes of each categorical variable."""
    network: Literal["normed", "plain"] = field("normed", expert=True)
    """Convolutional network. normed: padded, with layer norms. plain: that of World Models, which has 4 stages, width 32
    and no hidden layer before the latent."""
    width: int = sized("width", gt=0)
    """Channels after the first convolution; they double each time the image is halved."""
    units: int = sized("units", gt=0)
    """Width of the MLPs."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=2, large=2, ge=1)
    """Layers of the MLP that reads vectors."""
    unimix: ClassVar[float] = UNIMIX
    min_std: ClassVar[float] = MIN_STD

    @property
    def head_layers(self) -> int:
        """Hidden layers between the trunk (and the memory) and the latent."""
        return 0 if self.network == "plain" else 1


class VAEDynamicsConfig(Config):
    """Settings of the recurrent state-space model."""

    memory: int = sized("memory", gt=0)
    """Width H of the recurrent memory."""
    units: int = sized("units", gt=0)
    """Width of the layers before and after the memory."""
    unimix: ClassVar[float] = UNIMIX
    min_std: ClassVar[float] = MIN_STD


class ClockworkEncoderConfig(Config):
    """Settings of the posterior of two levels."""

    latent_dim: int = sized(nano=6, tiny=24, small=24, medium=24, large=24, gt=0)
    """Width of the lower level, which changes at every step."""
    upper: int = sized(nano=2, tiny=8, small=8, medium=8, large=8, gt=0)
    """Width of the upper level."""
    width: int = sized("width", gt=0)
    """Channels after the first convolution; they double each time the image is halved."""
    units: int = sized("units", gt=0)
    """Width of the MLPs."""
    layers: ClassVar[int] = 2
    """Layers of the MLP that reads vectors."""
    min_std: ClassVar[float] = MIN_STD


class ClockworkDynamicsConfig(Config):
    """Settings of the recurrent state-space model of two levels."""

    memory: int = sized("memory", gt=1)
    """Width of the memories of both levels together; the upper one has a quarter."""
    units: int = sized("units", gt=0)
    """Width of the layers before and after the memories."""
    every: int = field(4, ge=1)
    """Steps between two ticks of the upper level's clock."""
    unimix: ClassVar[float] = UNIMIX
    min_std: ClassVar[float] = MIN_STD


class EnsembleDynamicsConfig(Config):
    """Settings of an ensemble of any dynamics."""

    member: str = component("vae")
    """The dynamics of the members, by name. Its own settings are those of that name: --dynamics.vae.units."""
    count: int = field(5, ge=1, le=64)
    """Number of members K. One is the plain dynamics."""


class VAEDecoderConfig(Config):
    """Settings of the factorised decoder."""

    likelihood: Literal["mse", "learned"] = "mse"
    """mse: a Gaussian of fixed std. learned: scales are learned (discretised logistic for images, Gaussian for
    vectors)."""
    std: float = field(1.0, gt=0)
    """Standard deviation of the mse likelihood, in scaled units. A smaller std weights reconstruction more."""
    network: Literal["normed", "plain"] = field("normed", expert=True)
    """Transposed convolutions. normed: padded, with layer norms. plain: that of World Models, for images up to 64 x 64.
    """
    width: int = sized("width", gt=0)
    """Channels before the last transposed convolution."""
    units: int = sized("units", gt=0)
    """Width of the MLP that models vectors."""
    frames: int = field(0, ge=0)
    """Random frames of a batch decoded in one update; 0 means all of them."""
    layers: ClassVar[int] = 2
    """Layers of the MLP that models vectors."""


class VQEncoderConfig(Config):
    """Settings of the encoder with learned codebooks."""

    tokens: int = sized(nano=2, tiny=8, small=8, medium=16, large=32, ge=1)
    """Tokens of a frame, each with a codebook of its own."""
    codes: int = sized(nano=4, tiny=16, small=32, medium=64, large=64, ge=2)
    """Vectors of a codebook."""
    code_dim: int = sized(nano=2, tiny=4, small=4, medium=8, large=8, ge=1)
    """Width of a vector of the codebook."""
    commitment: float = field(0.25, ge=0)
    """Weight of the squared distance of the encoder's output to its code."""
    width: int = sized("width", gt=0)
    """Channels after the first convolution; they double each time the image is halved."""
    units: int = sized("units", gt=0)
    """Width of the MLP that reads vectors."""
    layers: ClassVar[int] = 2
    """Layers of the MLP that reads vectors."""


class FSQEncoderConfig(Config):
    """Settings of the encoder with finite scalar quantisation."""

    tokens: int = sized(nano=2, tiny=8, small=8, medium=16, large=32, ge=1)
    """Tokens of a frame."""
    levels: int = sized(nano=2, tiny=4, small=5, medium=8, large=8, ge=2, le=16)
    """Levels of each entry of a token."""
    dims: int = sized(nano=2, tiny=2, small=2, medium=2, large=2, ge=1, le=4)
    """Entries of a token; it has levels^dims codes."""
    width: int = sized("width", gt=0)
    """Channels after the first convolution; they double each time the image is halved."""
    units: int = sized("units", gt=0)
    """Width of the MLP that reads vectors."""
    layers: ClassVar[int] = 2
    """Layers of the MLP that reads vectors."""
