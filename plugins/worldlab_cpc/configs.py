"""Settings of the contrastive parts. Importable without torch."""

from __future__ import annotations

from worldlab import Config, field


class CPCEncoderConfig(Config):
    """Settings of the contrastive encoder."""

    latent_dim: int = field(64, ge=2)
    """Width of the latent z."""
    noise: float = field(0.2, gt=0)
    """Std of the Gaussian channel noise added to z; without noise a deterministic z has no density."""
    width: int = field(32, ge=1)
    """Channels after the first convolution; they double at each stage."""
    units: int = field(256, ge=1)
    """Hidden units of the vector trunk and of the critic's projection."""
    layers: int = field(2, ge=1)
    """Hidden layers of the vector trunk."""
    static_scale: float = field(1.0, ge=0)
    """Weight of the static InfoNCE between a noisy z and a re-embedded view of its frame; 0 skips the second pass."""
    static_frames: int = field(128, ge=2)
    """Random frames of a batch in the static InfoNCE; each is embedded a second time."""
    temperature: float = field(0.1, gt=0)
    """Temperature of the static critic's cosine similarity."""
    shift: int = field(4, ge=0)
    """Largest random shift of a view, in pixels; capped at 1/16 of the image's shorter side."""
    jitter: float = field(0.1, ge=0)
    """Noise of a vector view, as a fraction of each entry's std in the batch."""


class CPCDynamicsConfig(Config):
    """Settings of the contrastive dynamics."""

    memory: int = field(256, ge=1)
    """Width of the recurrent memory h."""
    units: int = field(256, ge=1)
    """Hidden units of the input, prior and k-step networks."""
    layers: int = field(1, ge=1)
    """Hidden layers of the input and prior networks."""
    min_std: float = field(0.1, gt=0)
    """Smallest std of the predicted Gaussian."""
    nll_scale: float = field(0.1, ge=0)
    """Weight of the Gaussian's log-likelihood of the stopped latent, which keeps the critic calibrated for sampling."""
    horizon: int = field(5, ge=0)
    """Farthest step k of the action-conditioned k-step InfoNCE; 0 leaves only the one-step critic."""
    horizon_scale: float = field(1.0, ge=0)
    """Weight of the k-step InfoNCE, averaged over the steps k."""
    projection: int = field(64, ge=1)
    """Width of the space in which the k-step heads compare."""
    temperature: float = field(0.1, gt=0)
    """Temperature of the k-step heads' cosine similarity."""


class CPCDecoderConfig(Config):
    """Settings of the contrastive observation model."""

    projection: int = field(64, ge=1)
    """Width of the space in which features and observations are compared."""
    width: int = field(16, ge=1)
    """Channels after the first convolution of the observation side."""
    units: int = field(256, ge=1)
    """Hidden units of both sides."""
    layers: int = field(2, ge=1)
    """Hidden layers of the vector trunk."""
    scale: float = field(1.0, ge=0)
    """Weight of the symmetric InfoNCE."""
    exclude: int = field(5, ge=0)
    """Frames of the same row up to this many steps away are no negatives: they look almost the same."""
    frames: int = field(0, ge=0)
    """Random frames of a batch compared in one update; 0 means all of them."""
