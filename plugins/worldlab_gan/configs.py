"""Settings of the adversarial parts. Importable without torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

from worldlab import Config, field

Loss = Literal["relativistic", "non_saturating", "hinge"]


class Game(NamedTuple):
    """The rules a critic plays by: the loss, and the weights of its gradient penalties on real and on generated
    samples."""

    loss: Loss
    r1: float
    r2: float


class GANEncoderConfig(Config):
    """Settings of the implicit posterior."""

    latent_dim: int = field(64, ge=1)
    """Width of the latent z."""
    noise: int = field(16, ge=1)
    """Width of the noise that enters each hidden layer of the inference network."""
    channel_noise: float = field(0.1, ge=0)
    """Std of the noise added to z at the end: with it q has a density, whatever the network does."""
    limit: float = field(4.0, gt=0)
    """z before the channel noise is squashed smoothly into +-limit, so that no loss can blow it up."""
    width: int = field(32, ge=1)
    """Channels after the first convolution; they double at each stage."""
    units: int = field(256, ge=1)
    """Hidden units of the vector trunk and of the inference network."""
    layers: int = field(2, ge=1)
    """Hidden layers of the vector trunk and of the inference network."""
    critic_units: int = field(256, ge=1)
    """Hidden units of the latent critic."""
    critic_layers: int = field(2, ge=1)
    """Hidden layers of the latent critic."""
    fool_scale: float = field(0.1, ge=0)
    """Weight of the term by which z should pass for a sample of the prior."""
    gauge_scale: float = field(0.1, ge=0)
    """Weight of the term that keeps each entry of z at mean 0 and variance 1 over a batch; no other loss fixes its
    scale."""
    loss: Loss = "relativistic"
    """The game: relativistic pairs (keeps most modes), non_saturating (the first GAN) or hinge."""
    r1: float = field(0.1, ge=0)
    """Weight of the critic's gradient penalty on prior samples."""
    r2: float = field(0.1, ge=0)
    """Weight of the critic's gradient penalty on the encoder's z."""


class GANDynamicsConfig(Config):
    """Settings of the implicit dynamics."""

    memory: int = field(512, ge=1)
    """Width of the recurrent memory h."""
    units: int = field(256, ge=1)
    """Hidden units of the input network and of the generator."""
    layers: int = field(2, ge=1)
    """Hidden layers of the generator; noise enters at each."""
    noise: int = field(16, ge=1)
    """Width of the noise that enters each hidden layer of the generator."""
    unimix: float = field(0.01, ge=0, lt=1)
    """Share of a uniform mixed into the generator's categoricals, where the latent is categorical."""
    average: float = field(0.01, gt=0, le=1)
    """Share of the generator's weights that its running average, which predicts and dreams, takes over at each
    update."""
    critic_units: int = field(256, ge=1)
    """Hidden units of the critics."""
    critic_layers: int = field(2, ge=1)
    """Hidden layers of the critics."""
    adversarial_scale: float = field(1.0, ge=0)
    """Weight of the term by which a generated latent should pass for an inferred one."""
    energy_scale: float = field(0.5, ge=0)
    """Weight of the energy score, the anchor that no critic can move."""
    samples: int = field(4, ge=2, le=64)
    """Latents generated from each memory in an update."""
    temporal: bool = False
    """A second critic judges two generated steps in a row with their actions, against shuffled actions too."""
    loss: Loss = "relativistic"
    """The game: relativistic pairs (keeps most modes), non_saturating (the first GAN) or hinge."""
    r1: float = field(0.2, ge=0)
    """Weight of the critics' gradient penalty on inferred latents."""
    r2: float = field(0.2, ge=0)
    """Weight of the critics' gradient penalty on generated latents."""


class GANDecoderConfig(Config):
    """Settings of the generator of observations."""

    width: int = field(32, ge=1)
    """Channels of the generator before its last transposed convolution."""
    critic_width: int = field(32, ge=1)
    """Channels of the critic after its first convolution; they double at each stage."""
    units: int = field(256, ge=1)
    """Hidden units of the conditioning networks and of the generator of vectors."""
    layers: int = field(2, ge=1)
    """Hidden layers of the generator of vectors."""
    critic_units: int = field(256, ge=1)
    """Hidden units of the critic."""
    critic_layers: int = field(2, ge=1)
    """Hidden layers of the critic's vector trunk."""
    frames: int = field(64, ge=0)
    """Random frames of a batch drawn and judged in one update; 0 means all, as it does where there are no pictures."""
    noise: int = field(8, ge=1)
    """Width of the noise that enters each level of a generator."""
    average: float = field(0.01, gt=0, le=1)
    """Share of the generator's weights that its running average, which draws, takes over at each update."""
    adversarial_scale: float = field(1.0, ge=0)
    """Weight of the term by which a generated observation should pass for a real one; it never reaches the features."""
    matching_scale: float = field(10.0, ge=0)
    """Weight of feature matching, the only term that reaches the encoder."""
    mismatch_scale: float = field(0.5, ge=0)
    """Weight of the critic's third task, on a head of its own: to tell a frame from another one. 0: no such head; a good
    generator then leaves `score` flat."""
    pix_l1: float = field(0.0, ge=0)
    """Weight of the mean absolute error of pixels and vector entries; it reaches the encoder too."""
    loss: Loss = "relativistic"
    """The game: relativistic pairs (keeps most modes), non_saturating (the first GAN) or hinge."""
    r1: float = field(0.1, ge=0)
    """Weight of the critic's gradient penalty on real observations."""
    r2: float = field(0.0, ge=0)
    """Weight of the critic's gradient penalty on generated observations."""
