"""Settings of the flow family. Importable without torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from worldlab import Config, field, sized


class FlowEncoderConfig(Config):
    """The inverse autoregressive posterior."""

    latent_dim: int = sized(nano=8, tiny=16, small=32, medium=64, large=64, gt=0)
    """Width of the latent z."""
    width: int = sized("width", ge=1)
    """Channels after the first convolution; they double at each halving of the picture."""
    units: int = sized("units", ge=1)
    """Hidden units of the vector trunk and width of the flow's context."""
    flow_units: int = sized(nano=16, tiny=64, small=64, medium=128, large=256, ge=1)
    """Hidden units of each autoregressive network; never fewer than latent_dim, or the last entries would see too little."""
    layers: ClassVar[int] = 2
    """Layers of the MLP that reads vectors, and of each autoregressive network."""
    transforms: ClassVar[int] = 2
    """Autoregressive transforms, in alternating order. Each costs one network call a sample."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of the outer Gaussian; the transforms may still narrow it."""


class FlowDynamicsConfig(Config):
    """The recurrent dynamics with a conditional flow as its prior."""

    memory: int = sized("memory", ge=1)
    """Width H of the recurrent memory."""
    units: int = sized("units", ge=1)
    """Hidden units of the input network and of each coupling network, and width of the flow's context."""
    coupling: Literal["spline", "realnvp"] = "spline"
    """spline: rational-quadratic splines, which can split one mode into several. realnvp: affine couplings. Real z only."""
    layers: ClassVar[int] = 1
    """Hidden layers of the input network, the context and each coupling network."""
    transforms: ClassVar[int] = 3
    """Couplings. Each costs one network call, for sampling and for densities alike."""
    bins: ClassVar[int] = 8
    """Bins of a spline: Durkan et al. 2019, arXiv:1906.04032, use 4 to 16."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of the outer Gaussian of a real z; the couplings may still narrow it."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the chances of codes, so that no code becomes impossible."""


class FlowDecoderConfig(Config):
    """The conditional image flow, and the spline flow for vectors."""

    architecture: Literal["glow", "realnvp"] = "glow"
    """glow: invertible 1x1 convolutions between couplings. realnvp: checkerboard then channel masks, no 1x1."""
    dequantisation: Literal["uniform", "variational"] = "uniform"
    """Noise that fills the 256 grey levels in training. variational: a small flow learns it (Flow++), a tighter bound."""
    init: Literal["data", "plain"] = "data"
    """data: actnorms set from the first batch, last layers zero (Glow). plain: actnorms do nothing at first, last layers random."""
    levels: int = sized(nano=3, tiny=2, small=2, medium=3, large=3, ge=1)
    """Scales; fewer where a side stops being even."""
    depth: int = sized(nano=1, tiny=2, small=3, medium=4, large=4, ge=1)
    """Flow steps a level (K of Glow); realnvp has half of each mask, at least two."""
    channels: int = sized(nano=4, tiny=16, small=32, medium=64, large=64, ge=1)
    """Hidden channels of each coupling network."""
    width: int = sized(nano=4, tiny=8, small=8, medium=16, large=32, ge=1)
    """Channels of the finest map of features; they double at each halving."""
    units: int = sized("units", ge=1)
    """Hidden units before the maps of features, and of the vector flow."""
    frames: int = field(64, ge=0)
    """Random frames of a batch explained in one update; 0 means all, as it does where there are no pictures."""
    layers: ClassVar[int] = 1
    """Layers of the MLPs before the maps of features and of the vector flow."""
    transforms: ClassVar[int] = 3
    """Couplings of the vector flow."""
    bins: ClassVar[int] = 8
    """Bins of the vector flow's splines."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of the vector flow's outer Gaussian; the couplings may still narrow it."""
    vector_noise: ClassVar[float] = 0.02
    """Std of noise added to vectors in training: the density of a number known exactly has no bound."""
    weight: ClassVar[Literal["entry", "frame"]] = "entry"
    """The log-likelihood in training: entry, nats divided by the number of entries; frame, all nats, as a plain bound has."""
    scale: ClassVar[float] = 1.0
    """Weight of that log-likelihood."""
    guide: ClassVar[float] = 1.0
    """Weight of the squared error of a plain sketch read off the features: flows alone may explain a picture without them."""
