"""Settings of the flow family. Importable without torch."""

from __future__ import annotations

from typing import Literal

from worldlab import Config, field


class FlowEncoderConfig(Config):
    """The inverse autoregressive posterior."""

    latent_dim: int = field(64, gt=0)
    """Width of the latent z."""
    width: int = field(32, ge=1)
    """Channels after the first convolution; they double at each halving of the picture."""
    units: int = field(256, ge=1)
    """Hidden units of the vector trunk and width of the flow's context."""
    layers: int = field(2, ge=1)
    """Layers of the MLP that reads vectors, and of each autoregressive network."""
    flow_units: int = field(128, ge=1)
    """Hidden units of each autoregressive network; never fewer than latent_dim, or the last entries would see too little."""
    transforms: int = field(2, ge=1)
    """Autoregressive transforms, in alternating order. Each costs one network call a sample."""
    min_std: float = field(0.05, gt=0)
    """Smallest std of the outer Gaussian; the transforms may still narrow it."""


class FlowDynamicsConfig(Config):
    """The recurrent dynamics with a conditional flow as its prior."""

    memory: int = field(512, ge=1)
    """Width H of the recurrent memory."""
    units: int = field(256, ge=1)
    """Hidden units of the input network and of each coupling network, and width of the flow's context."""
    layers: int = field(1, ge=1)
    """Hidden layers of the input network, the context and each coupling network."""
    coupling: Literal["spline", "realnvp"] = "spline"
    """spline: rational-quadratic splines, which can split one mode into several. realnvp: affine couplings. Real z only."""
    transforms: int = field(3, ge=1)
    """Couplings. Each costs one network call, for sampling and for densities alike."""
    bins: int = field(8, ge=2)
    """Bins of a spline."""
    min_std: float = field(0.05, gt=0)
    """Smallest std of the outer Gaussian of a real z; the couplings may still narrow it."""
    unimix: float = field(0.01, ge=0, lt=1)
    """Share of a uniform mixed into the chances of codes, so that no code becomes impossible."""


class FlowDecoderConfig(Config):
    """The conditional image flow, and the spline flow for vectors."""

    architecture: Literal["glow", "realnvp"] = "glow"
    """glow: invertible 1x1 convolutions between couplings. realnvp: checkerboard then channel masks, no 1x1."""
    dequantisation: Literal["uniform", "variational"] = "uniform"
    """Noise that fills the 256 grey levels in training. variational: a small flow learns it (Flow++), a tighter bound."""
    init: Literal["data", "plain"] = "data"
    """data: actnorms set from the first batch, last layers zero (Glow). plain: actnorms do nothing at first, last layers random."""
    levels: int = field(3, ge=1)
    """Scales; fewer where a side stops being even."""
    depth: int = field(4, ge=1)
    """Flow steps a level (K of Glow); realnvp has half of each mask, at least two."""
    channels: int = field(64, ge=1)
    """Hidden channels of each coupling network."""
    width: int = field(32, ge=1)
    """Channels of the finest map of features; they double at each halving."""
    units: int = field(256, ge=1)
    """Hidden units before the maps of features, and of the vector flow."""
    layers: int = field(1, ge=1)
    """Layers of those MLPs."""
    transforms: int = field(3, ge=1)
    """Couplings of the vector flow."""
    bins: int = field(8, ge=2)
    """Bins of its splines."""
    min_std: float = field(0.05, gt=0)
    """Smallest std of the vector flow's outer Gaussian; the couplings may still narrow it."""
    vector_noise: float = field(0.02, ge=0)
    """Std of noise added to vectors in training: the density of a number known exactly has no bound."""
    weight: Literal["entry", "frame"] = "entry"
    """The log-likelihood in training: entry, nats divided by the number of entries; frame, all nats, as a plain bound has."""
    scale: float = field(1.0, gt=0)
    """Weight of that log-likelihood."""
    guide: float = field(1.0, ge=0)
    """Weight of the squared error of a plain sketch read off the features: flows alone may explain a picture without them."""
    frames: int = field(64, ge=0)
    """Random frames of a batch explained in one update; 0 means all, as it does where there are no pictures."""
