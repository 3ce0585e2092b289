"""Settings of the contrastive parts. Importable without torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from worldlab import Config, component, field, sized

UNIMIX = 0.01
"""Share of a uniform mixed into the probabilities of codes, as in DreamerV3, arXiv:2301.04104."""


class CPCEncoderConfig(Config):
    """Settings of the contrastive encoder."""

    latent: Literal["point", "categorical"] = "point"
    """Kind of latent. point: a deterministic z with channel noise. categorical: one-hots, with a KL to the prediction."""
    latent_dim: int = sized(nano=8, tiny=64, small=64, medium=64, large=64, ge=2)
    """Width of a point z."""
    noise: float = field(0.2, gt=0)
    """Std of the Gaussian channel noise added to a point z. Without noise a deterministic z has no density."""
    width: int = sized("width", ge=1)
    """Channels after the first convolution; they double at each stage."""
    units: int = sized("units", ge=1)
    """Hidden units of the vector trunk, of the codes' head and of the critic's projection."""
    layers: ClassVar[int] = 2
    """Hidden layers of the vector trunk."""
    projection: ClassVar[int] = 32
    """Width of the space in which the static critic compares codes; points are compared in one of their own width."""
    groups: ClassVar[int] = 16
    """Number of categorical variables in a categorical z."""
    classes: ClassVar[int] = 16
    """Classes of each categorical variable."""
    static_scale: ClassVar[float] = 1.0
    """Weight of the static InfoNCE between a noisy z and an augmented view of its frame, as in TPC; 0 skips the second
    pass."""
    static_frames: ClassVar[int] = 128
    """Random frames of a batch in the static InfoNCE. Each costs a second embedding; the bound is at most log 128 = 4.9
    nats."""
    temperature: ClassVar[float] = 0.1
    """Temperature of the static critic's cosine similarity: SimCLR's, arXiv:2002.05709."""
    shift: ClassVar[int] = 4
    """Largest random shift of a view, in pixels, as in DrQ; at most 1/16 of the image's shorter side."""
    jitter: ClassVar[float] = 0.1
    """Noise added to a vector view, as a fraction of each entry's std in the batch."""


class CPCDynamicsConfig(Config):
    """Settings of the contrastive dynamics."""

    memory: int = sized("memory", ge=1)
    """Width of the recurrent memory h."""
    units: int = sized("units", ge=1)
    """Hidden units of the input, prior and k-step networks."""
    horizon: int = field(5, ge=0)
    """Largest step k of the action-conditioned k-step InfoNCE; 0 leaves only the one-step critic."""
    layers: ClassVar[int] = 1
    """Hidden layers of the input and prior networks."""
    min_std: ClassVar[float] = 0.1
    """Smallest std of the predicted Gaussian."""
    nll_scale: ClassVar[float] = 0.1
    """Weight of the negative log-likelihood of the detached latent, which keeps the critic calibrated for sampling."""
    horizon_scale: ClassVar[float] = 1.0
    """Weight of the k-step InfoNCE, averaged over the steps k."""
    projection: ClassVar[int] = 64
    """Width of the space in which the k-step heads compare latents."""
    temperature: ClassVar[float] = 0.1
    """Temperature of the k-step heads' cosine similarity, equal to the static critic's."""


class TwisterDynamicsConfig(Config):
    """Settings of contrastive predictions of the future around another dynamics."""

    member: str = component("autoregressive")
    """The dynamics that predicts, by name. Its own settings are those of that name: --dynamics.autoregressive.layers."""
    horizon: int = field(10, ge=1, nano=4)
    """Number of steps ahead that are identified: this one, the next, and so on."""
    units: int = sized("units", ge=1)
    """Hidden units of the query networks."""
    decay: ClassVar[float] = 0.75
    """Ratio of the weights of consecutive steps, which add up to 1."""
    projection: ClassVar[int] = 64
    """Width of the space in which queries and latents are compared."""
    temperature: ClassVar[float] = 0.1
    """Temperature of the cosine similarity, as in the contrastive dynamics."""


class SimNormEncoderConfig(Config):
    """Settings of the deterministic encoder whose latent lies on simplices."""

    groups: int = sized(nano=2, tiny=8, small=16, medium=32, large=64, ge=1)
    """Number of simplices; z has 8 entries for each."""
    width: int = sized("width", ge=1)
    """Channels after the first convolution; they double at each stage."""
    units: int = sized("units", ge=1)
    """Hidden units of the vector trunk."""
    layers: ClassVar[int] = 2
    """Hidden layers of the vector trunk."""
    corners: ClassVar[int] = 8
    """Entries V of a simplex."""
    temperature: ClassVar[float] = 1.0
    """Temperature of the softmax."""


class CPCDecoderConfig(Config):
    """Settings of the contrastive observation model."""

    width: int = sized("width", ge=1)
    """Channels after the first convolution of the observation network."""
    units: int = sized("units", ge=1)
    """Hidden units of the feature and observation networks."""
    frames: int = field(0, ge=0)
    """Random frames of a batch compared in one update; 0 means all of them."""
    projection: ClassVar[int] = 64
    """Width of the space in which features and observations are compared."""
    layers: ClassVar[int] = 2
    """Hidden layers of the vector trunk."""
    scale: ClassVar[float] = 1.0
    """Weight of the symmetric InfoNCE, which is in nats."""
    exclude: ClassVar[int] = 5
    """Frames of the same row at most this many steps apart look too similar to serve as negatives."""


class MAEEncoderConfig(Config):
    """Settings of the masked autoencoder."""

    latent_dim: int = sized(nano=8, tiny=64, small=64, medium=64, large=64, ge=2)
    """Width of the latent z."""
    noise: float = field(0.2, gt=0)
    """Std of the Gaussian channel noise added to z. Without noise a deterministic z has no density."""
    mask: float = field(0.75, gt=0, lt=1)
    """Share of the patches, or of a vector's entries, that the encoder does not see in its own loss."""
    units: int = sized("units", ge=4)
    """Width of the tokens, rounded down to a multiple of 4."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=3, large=4, ge=1)
    """Layers of the transformer over the tokens."""
    frames: int = field(64, ge=1)
    """Random frames of a batch that train the autoencoder in one update."""
