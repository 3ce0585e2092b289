"""Settings of the adversarial parts. Importable without torch."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pydantic import model_validator

from worldlab import Config, field, sized

Loss = Literal["relativistic", "non_saturating", "hinge", "wasserstein", "spectral"]


class Game(NamedTuple):
    """The loss of a game, and the weights of its gradient penalties.

    r1, r2: at real and at generated samples, towards a slope of 0. gp: between them, towards a slope of 1.
    """

    loss: Loss
    r1: float
    r2: float
    gp: float = 0.0

    @classmethod
    def of(cls, loss: Loss, r1: float, r2: float) -> Game:
        """Return the game of a loss. wasserstein has a penalty of its own instead of r1 and r2, with its paper's weight:
        Gulrajani et al. 2017 (WGAN-GP), arXiv:1704.00028, section 4: 10. spectral bounds its weights and has none.
        """
        if loss in ("wasserstein", "spectral"):
            return cls(loss, 0.0, 0.0, 10.0 if loss == "wasserstein" else 0.0)
        return cls(loss, r1, r2)


class GANEncoderConfig(Config):
    """Settings of the implicit posterior."""

    latent_dim: int = sized(nano=8, tiny=16, small=32, medium=64, large=64, ge=1)
    """Width of the latent z."""
    width: int = sized("width", ge=1)
    """Channels after the first convolution; they double at each stage."""
    units: int = sized("units", ge=1)
    """Hidden units of the vector trunk, the inference network and the latent critic."""
    loss: Loss = "relativistic"
    """The adversarial loss: relativistic pairs (drops the fewest modes), non_saturating (the original GAN), hinge,
    wasserstein (WGAN-GP), or spectral (hinge, with layers of spectral norm 1 instead of penalties)."""
    fool_scale: ClassVar[float] = 0.1
    """Weight of the adversarial term, which makes z resemble a sample of the prior."""
    layers: ClassVar[int] = 2
    """Hidden layers of the vector trunk and of the inference network."""
    critic_layers: ClassVar[int] = 2
    """Hidden layers of the latent critic."""
    noise: ClassVar[int] = 16
    """Width of the noise added at each hidden layer of the inference network."""
    channel_noise: ClassVar[float] = 0.1
    """Std of the noise added to the final z, which gives q a density whatever the network does."""
    limit: ClassVar[float] = 4.0
    """Before the channel noise, z is squashed smoothly into +-limit, so that no loss can make it diverge."""
    gauge_scale: ClassVar[float] = 0.1
    """Weight of the term that keeps each entry of z at mean 0 and variance 1 over a batch. No other loss fixes the
    scale."""
    r1: ClassVar[float] = 0.1
    """Weight of the critic's gradient penalty at prior samples. Both penalties together let the game converge (R3GAN).
    """
    r2: ClassVar[float] = 0.1
    """Weight of the critic's gradient penalty at the encoder's z."""


class GANDynamicsConfig(Config):
    """Settings of the implicit dynamics."""

    memory: int = sized("memory", ge=1)
    """Width of the recurrent memory h."""
    units: int = sized("units", ge=1)
    """Hidden units of the input network, the generator and the critics."""
    energy_scale: float = field(0.5, ge=0)
    """Weight of the energy score, a proper score that does not depend on the critic."""
    temporal: bool = False
    """Adds a second critic of two consecutive generated steps and their actions; it also rejects shuffled actions."""
    loss: Loss = "relativistic"
    """The adversarial loss: relativistic pairs (drops the fewest modes), non_saturating (the original GAN), hinge,
    wasserstein (WGAN-GP), or spectral (hinge, with layers of spectral norm 1 instead of penalties)."""
    layers: ClassVar[int] = 2
    """Hidden layers of the generator; noise is added at each."""
    critic_layers: ClassVar[int] = 2
    """Hidden layers of the critics."""
    noise: ClassVar[int] = 16
    """Width of the noise added at each hidden layer of the generator."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the generator's categoricals, where the latent is categorical."""
    average: ClassVar[float] = 0.01
    """Rate of the running average of the generator's weights, per update. The average predicts and dreams."""
    adversarial_scale: ClassVar[float] = 1.0
    """Weight of the adversarial term, relative to the energy score."""
    samples: ClassVar[int] = 4
    """Latents generated from each memory in an update. The energy score needs two; four halve its variance."""
    r1: ClassVar[float] = 0.2
    """Weight of the critics' gradient penalty at inferred latents. Both penalties together let the game converge
    (R3GAN)."""
    r2: ClassVar[float] = 0.2
    """Weight of the critics' gradient penalty at generated latents."""


class IMLEDynamicsConfig(Config):
    """Settings of the dynamics trained by its samples alone, without a critic."""

    memory: int = sized("memory", ge=1)
    """Width of the recurrent memory h."""
    units: int = sized("units", ge=1)
    """Hidden units of the input network and the generator."""
    samples: int = field(16, ge=1)
    """Samples m of each memory. More find rarer outcomes and cost more."""
    loss: Literal["nearest", "moments"] = "nearest"
    """nearest: each real latent pulls the nearest of its samples (IMLE). moments: all samples match it under kernels (GMMN).
    """
    layers: ClassVar[int] = 2
    """Hidden layers of the generator; noise is added at each."""
    noise: ClassVar[int] = 16
    """Width of the noise added at each hidden layer of the generator."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the generator's categoricals, where the latent is categorical."""
    scored: ClassVar[int] = 8
    """Samples whose mean gives the score that trains encoders with a density."""
    min_std: ClassVar[float] = 0.01
    """Smallest std around this mean."""

    @model_validator(mode="after")
    def _samples_have_pairs(self) -> IMLEDynamicsConfig:
        if self.loss == "moments" and self.samples < 2:
            raise ValueError("loss moments compares samples with each other: samples must be at least 2")
        return self


class GANDecoderConfig(Config):
    """Settings of the generator of observations."""

    width: int = sized("width", ge=1)
    """Channels of the generator before its last transposed convolution, and of the critic after its first."""
    units: int = sized("units", ge=1)
    """Hidden units of the conditioning networks, the generator of vectors and the critic."""
    frames: int = field(64, ge=0)
    """Random frames of a batch generated and scored in an update; 0 means all. Without images all frames are always
    used."""
    loss: Loss = "relativistic"
    """The adversarial loss: relativistic pairs (drops the fewest modes), non_saturating (the original GAN), hinge,
    wasserstein (WGAN-GP), or spectral (hinge, with layers of spectral norm 1 instead of penalties)."""
    layers: ClassVar[int] = 2
    """Hidden layers of the generator of vectors."""
    critic_layers: ClassVar[int] = 2
    """Hidden layers of the critic's vector trunk."""
    noise: ClassVar[int] = 8
    """Width of the noise added at each level of a generator."""
    average: ClassVar[float] = 0.01
    """Rate of the running average of the generator's weights, per update. The average draws the samples."""
    adversarial_scale: ClassVar[float] = 1.0
    """Weight of the adversarial term. Its gradient never reaches the features."""
    matching_scale: ClassVar[float] = 10.0
    """Weight of feature matching, the only term that trains the encoder: pix2pixHD's, arXiv:1711.11585."""
    mismatch_scale: ClassVar[float] = 0.5
    """Weight of a separate head of the critic, which distinguishes the true frame from another frame. 0 removes the
    head; against a good generator `score` is then flat."""
    pix_l1: ClassVar[float] = 0.0
    """Weight of the mean absolute error of pixels and vector entries. It would train the encoder too, as feature
    matching does."""
    r1: ClassVar[float] = 0.1
    """Weight of the critic's gradient penalty at real observations."""
    r2: ClassVar[float] = 0.0
    """Weight of the critic's gradient penalty at generated observations: a second backward pass that images did not
    need."""
