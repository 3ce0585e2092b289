"""The variational family: amortised posterior, latent dynamics with a learned prior, factorised decoder."""

from pathlib import Path

from worldlab import hookimpl
from worldlab_vae.configs import (
    FSQEncoderConfig,
    VAEDecoderConfig,
    VAEDynamicsConfig,
    VAEEncoderConfig,
    VQEncoderConfig,
)


@hookimpl
def worldlab_register(register) -> None:
    register.presets(Path(__file__).with_name("presets"))
    register.encoder(
        "vae",
        "worldlab_vae.encoder:VAEEncoder",
        config=VAEEncoderConfig,
        summary="Gaussian or categorical amortised posterior, conditioned on the memory",
        paper="Kingma & Welling 2013 (VAE), arXiv:1312.6114; Hafner et al. 2023 (DreamerV3), arXiv:2301.04104",
        api=1,
    )
    register.dynamics(
        "vae",
        "worldlab_vae.dynamics:VAEDynamics",
        config=VAEDynamicsConfig,
        summary="recurrent state-space model with a learned prior (RSSM)",
        paper="Hafner et al. 2018 (PlaNet), arXiv:1811.04551; Chung et al. 2015, arXiv:1506.02216",
        api=1,
    )
    register.decoder(
        "vae",
        "worldlab_vae.decoder:VAEDecoder",
        config=VAEDecoderConfig,
        summary="factorised likelihood: transposed convolutions for images, an MLP for vectors",
        paper="Kingma & Welling 2013, arXiv:1312.6114; Salimans et al. 2017, arXiv:1701.05517",
        api=1,
    )
    register.encoder(
        "vq",
        "worldlab_vae.vq:VQEncoder",
        config=VQEncoderConfig,
        summary="VQ-VAE: a frame as a few tokens, each the nearest vector of a learned codebook",
        paper="van den Oord et al. 2017 (VQ-VAE), arXiv:1711.00937; Micheli et al. 2022 (IRIS), arXiv:2209.00588",
        api=1,
    )
    register.encoder(
        "fsq",
        "worldlab_vae.fsq:FSQEncoder",
        config=FSQEncoderConfig,
        summary="finite scalar quantisation: a frame as a few tokens, without a codebook",
        paper="Mentzer et al. 2023 (FSQ), arXiv:2309.15505; Scannell et al. 2025 (DC-MPC), arXiv:2503.00653",
        api=1,
    )
