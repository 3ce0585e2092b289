"""Settings of the adversarial parts. Importable without torch."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from worldlab import Config, field, sized

Loss = Literal["relativistic", "non_saturating", "hinge"]


class Game(NamedTuple):
    """The rules a critic plays by: the loss, and the weights of its gradient penalties on real and on generated
    samples."""

    loss: Loss
    r1: float
    r2: float


class GANEncoderConfig(Config):
    """Settings of the implicit posterior."""

    latent_dim: int = sized(nano=8, tiny=16, small=32, medium=64, large=64, ge=1)
    """Width of the latent z."""
    width: int = sized("width", ge=1)
    """Channels after the first convolution; they double at each stage."""
    units: int = sized("units", ge=1)
    """Hidden units of the vector trunk, the inference network and the latent critic."""
    fool_scale: float = field(0.1, ge=0)
    """Weight of the term by which z should pass for a sample of the prior."""
    loss: Loss = "relativistic"
    """The game: relativistic pairs (keeps most modes), non_saturating (the first GAN) or hinge."""
    layers: ClassVar[int] = 2
    """Hidden layers of the vector trunk and of the inference network."""
    critic_layers: ClassVar[int] = 2
    """Hidden layers of the latent critic."""
    noise: ClassVar[int] = 16
    """Width of the noise that enters each hidden layer of the inference network."""
    channel_noise: ClassVar[float] = 0.1
    """Std of the noise added to z at the end: with it q has a density, whatever the network does."""
    limit: ClassVar[float] = 4.0
    """z before the channel noise is squashed smoothly into +-limit, so that no loss can blow it up."""
    gauge_scale: ClassVar[float] = 0.1
    """Weight of the term that keeps each entry of z at mean 0 and variance 1 over a batch; no other loss fixes its scale."""
    r1: ClassVar[float] = 0.1
    """Weight of the critic's gradient penalty on prior samples: both penalties together bring the game to rest (R3GAN)."""
    r2: ClassVar[float] = 0.1
    """Weight of the critic's gradient penalty on the encoder's z."""


class GANDynamicsConfig(Config):
    """Settings of the implicit dynamics."""

    memory: int = sized("memory", ge=1)
    """Width of the recurrent memory h."""
    units: int = sized("units", ge=1)
    """Hidden units of the input network, the generator and the critics."""
    energy_scale: float = field(0.5, ge=0)
    """Weight of the energy score, the anchor that no critic can move."""
    temporal: bool = False
    """A second critic sees two generated steps in a row with their actions, against shuffled actions too."""
    loss: Loss = "relativistic"
    """The game: relativistic pairs (keeps most modes), non_saturating (the first GAN) or hinge."""
    layers: ClassVar[int] = 2
    """Hidden layers of the generator; noise enters at each."""
    critic_layers: ClassVar[int] = 2
    """Hidden layers of the critics."""
    noise: ClassVar[int] = 16
    """Width of the noise that enters each hidden layer of the generator."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the generator's categoricals, where the latent is categorical."""
    average: ClassVar[float] = 0.01
    """Share of the generator's weights that its running average, which predicts and dreams, takes over at each update."""
    adversarial_scale: ClassVar[float] = 1.0
    """Weight of the term by which a generated latent should pass for an inferred one; the energy score weighs against it."""
    samples: ClassVar[int] = 4
    """Latents generated from each memory in an update: the energy score needs two, four halve its variance."""
    r1: ClassVar[float] = 0.2
    """Weight of the critics' gradient penalty on inferred latents: both penalties together bring the game to rest (R3GAN)."""
    r2: ClassVar[float] = 0.2
    """Weight of the critics' gradient penalty on generated latents."""


class GANDecoderConfig(Config):
    """Settings of the generator of observations."""

    width: int = sized("width", ge=1)
    """Channels of the generator before its last transposed convolution, and of the critic after its first."""
    units: int = sized("units", ge=1)
    """Hidden units of the conditioning networks, the generator of vectors and the critic."""
    frames: int = field(64, ge=0)
    """Random frames of a batch drawn and scored in one update; 0 means all, as it does where there are no pictures."""
    loss: Loss = "relativistic"
    """The game: relativistic pairs (keeps most modes), non_saturating (the first GAN) or hinge."""
    layers: ClassVar[int] = 2
    """Hidden layers of the generator of vectors."""
    critic_layers: ClassVar[int] = 2
    """Hidden layers of the critic's vector trunk."""
    noise: ClassVar[int] = 8
    """Width of the noise that enters each level of a generator."""
    average: ClassVar[float] = 0.01
    """Share of the generator's weights that its running average, which draws, takes over at each update."""
    adversarial_scale: ClassVar[float] = 1.0
    """Weight of the term by which a generated observation should pass for a real one; it never reaches the features."""
    matching_scale: ClassVar[float] = 10.0
    """Weight of feature matching, the only term that reaches the encoder: pix2pixHD's, arXiv:1711.11585."""
    mismatch_scale: ClassVar[float] = 0.5
    """Weight of the critic's third task, on a head of its own: to tell a frame from another one. 0: no such head; a good
    generator then leaves `score` flat."""
    pix_l1: ClassVar[float] = 0.0
    """Weight of the mean absolute error of pixels and vector entries, which would reach the encoder too: feature matching does."""
    r1: ClassVar[float] = 0.1
    """Weight of the critic's gradient penalty on real observations."""
    r2: ClassVar[float] = 0.0
    """Weight of the critic's gradient penalty on generated observations: a second pass that pictures did not need."""
