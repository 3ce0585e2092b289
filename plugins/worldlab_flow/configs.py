"""Settings of the flow family. Importable without torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from worldlab import Config, field, sized


class FlowEncoderConfig(Config):
    """Settings of the inverse autoregressive posterior."""

    latent_dim: int = sized(nano=8, tiny=16, small=32, medium=64, large=64, gt=0)
    """Width of the latent z."""
    width: int = sized("width", ge=1)
    """Channels after the first convolution; they double each time the image is halved."""
    units: int = sized("units", ge=1)
    """Hidden units of the vector trunk and width of the flow's context."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=2, large=2, ge=1)
    """Layers of the MLP that reads vectors, and of each autoregressive network."""
    transforms: ClassVar[int] = 2
    """Autoregressive transforms, in alternating order. Each costs one network call per sample."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of the outer Gaussian; the transforms can still reduce it."""

    @property
    def flow_units(self) -> int:
        """Return the hidden units of each autoregressive network: half of `units`, but not below 64 unless `units` is.

        They are at least latent_dim, or the last entries would depend on too few others.
        """
        return max(min(self.units, max(64, self.units // 2)), self.latent_dim)


class FlowDynamicsConfig(Config):
    """Settings of the recurrent dynamics with a conditional flow as its prior."""

    memory: int = sized("memory", ge=1)
    """Width H of the recurrent memory."""
    units: int = sized("units", ge=1)
    """Hidden units of the input network and of each coupling network, and width of the flow's context."""
    coupling: Literal["spline", "realnvp", "nice", "maf"] = "spline"
    """spline: rational-quadratic splines, which can represent several modes. realnvp: affine couplings. nice: shifts. maf:
    masked autoregressive transforms, whose samples take a network call for each entry. For real z only."""
    layers: ClassVar[int] = 1
    """Hidden layers of the input network, the context and each coupling network."""
    transforms: ClassVar[int] = 3
    """Number of couplings. Each costs one network call, for sampling and for densities."""
    bins: ClassVar[int] = 8
    """Bins of a spline; Durkan et al. 2019, arXiv:1906.04032, use 4 to 16."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of the outer Gaussian of a real z; the couplings can still reduce it."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the probabilities of codes, which keeps every code possible."""


class FlowDecoderConfig(Config):
    """Settings of the conditional image flow and of the spline flow for vectors."""

    architecture: Literal["glow", "realnvp"] = "glow"
    """glow: invertible 1x1 convolutions between couplings. realnvp: checkerboard masks, then channel masks, no 1x1."""
    dequantisation: Literal["uniform", "variational"] = "uniform"
    """Noise added to the 256 grey levels in training. variational: a small flow learns the noise (Flow++), a tighter
    bound."""
    init: Literal["data", "plain"] = "data"
    """data: the first batch sets the actnorms, last layers start at 0 (Glow). plain: actnorms start as identities, last
    layers random."""
    levels: int = sized(nano=3, tiny=2, small=2, medium=3, large=3, ge=1)
    """Number of scales; fewer if a side becomes odd."""
    depth: int = sized(nano=1, tiny=2, small=3, medium=4, large=4, ge=1)
    """Flow steps per level (K of Glow); realnvp has half as many of each mask, at least two."""
    channels: int = sized(nano=4, tiny=16, small=32, medium=64, large=64, ge=1)
    """Hidden channels of each coupling network."""
    width: int = sized(nano=4, tiny=8, small=8, medium=16, large=32, ge=1)
    """Channels of the finest conditioning map; they double each time the map is halved."""
    units: int = sized("units", ge=1)
    """Hidden units before the conditioning maps, and of the vector flow."""
    frames: int = field(64, ge=0)
    """Random frames of a batch decoded in one update; 0 means all. Without images all frames are always used."""
    layers: ClassVar[int] = 1
    """Layers of the MLPs before the conditioning maps and of the vector flow."""
    transforms: ClassVar[int] = 3
    """Number of couplings of the vector flow."""
    bins: ClassVar[int] = 8
    """Bins of the vector flow's splines."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of the vector flow's outer Gaussian; the couplings can still reduce it."""
    vector_noise: ClassVar[float] = 0.02
    """Std of noise added to vectors in training; the density of noiseless values is unbounded."""
    weight: ClassVar[Literal["entry", "frame"]] = "entry"
    """Normalisation of the log-likelihood: entry divides the nats by the number of entries; frame uses all nats, as in
    the bound."""
    scale: ClassVar[float] = 1.0
    """Weight of the log-likelihood."""
    guide: ClassVar[float] = 1.0
    """Weight of the squared error of an image predicted from the features alone; flows may otherwise ignore the
    features."""
