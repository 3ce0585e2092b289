"""The variational family: amortised posterior, latent dynamics with a learned prior, factorised decoder."""

from pathlib import Path

from worldlab import hookimpl
from worldlab_vae.configs import (
    ClockworkDynamicsConfig,
    ClockworkEncoderConfig,
    EnsembleDynamicsConfig,
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
        paper="Kingma & Welling 2013 (VAE), arXiv:1312.6114; Higgins et al. 2017 (beta-VAE); Burda et al. 2015 (IWAE), "
        "arXiv:1509.00519; Igl et al. 2018 (DVRL), arXiv:1806.02426; "
        "Hafner et al. 2023 (DreamerV3), arXiv:2301.04104",
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
    register.dynamics(
        "ensemble",
        "worldlab_vae.ensemble:EnsembleDynamics",
        config=EnsembleDynamicsConfig,
        summary="K members of any dynamics with one memory; each imagined row follows one of them",
        paper="Lakshminarayanan et al. 2016, arXiv:1612.01474; Sekar et al. 2020 (Plan2Explore), arXiv:2005.05960; WIMLE",
        api=1,
    )
    register.encoder(
        "clockwork",
        "worldlab_vae.clockwork:ClockworkEncoder",
        config=ClockworkEncoderConfig,
        summary="Gaussian posterior of two levels; a clockwork dynamics holds the upper one between ticks",
        paper="Saxena et al. 2021 (CW-VAE), arXiv:2102.09532",
        api=1,
    )
    register.dynamics(
        "clockwork",
        "worldlab_vae.clockwork:ClockworkDynamics",
        config=ClockworkDynamicsConfig,
        summary="RSSM of two levels, of which the upper one moves at ticks of a slow clock only",
        paper="Saxena et al. 2021 (CW-VAE), arXiv:2102.09532",
        api=1,
    )
