"""The adversarial family: samplers without densities, trained by critics. README.md explains the family."""

from worldlab import hookimpl
from worldlab_gan.configs import GANDecoderConfig, GANDynamicsConfig, GANEncoderConfig, IMLEDynamicsConfig


@hookimpl
def worldlab_register(register) -> None:
    register.encoder(
        "gan",
        "worldlab_gan.encoder:GANEncoder",
        config=GANEncoderConfig,
        summary="Implicit posterior with injected noise, matched to the prior by a latent critic (WAE-GAN).",
        paper="arXiv:1511.05644, arXiv:1711.01558, arXiv:2501.05441",
        api=1,
    )
    register.dynamics(
        "gan",
        "worldlab_gan.dynamics:GANDynamics",
        config=GANDynamicsConfig,
        summary="GRU memory and an implicit generator, trained by a relativistic critic and the energy score.",
        paper="Huang et al. 2025 (R1 and R2 penalties, hinge loss; video GANs), arXiv:2501.05441; arXiv:1606.02556; "
        "Gulrajani et al. 2017 (WGAN-GP), arXiv:1704.00028; Miyato et al. 2018 (spectral norm), arXiv:1802.05957",
        api=1,
    )
    register.decoder(
        "gan",
        "worldlab_gan.decoder:GANDecoder",
        config=GANDecoderConfig,
        summary="Generator of observations with a projection critic and feature matching: sharp images, no density.",
        paper="Goodfellow et al. 2014 (GAN), arXiv:1406.2661; "
        "Radford et al. 2015 (DCGAN), arXiv:1511.06434; arXiv:1512.09300, arXiv:1802.05637",
        api=1,
    )
    register.dynamics(
        "imle",
        "worldlab_gan.imle:IMLEDynamics",
        config=IMLEDynamicsConfig,
        summary="GRU memory and an implicit generator; each real latent pulls its nearest sample, without a critic.",
        paper="Li & Malik 2018 (IMLE), arXiv:1809.09087; Li et al. 2020, arXiv:2004.03590; WIMLE, arXiv:2602.14351",
        api=1,
    )
    register.dynamics(
        "gmmn",
        "worldlab_gan.imle:IMLEDynamics",
        config=IMLEDynamicsConfig,
        variant_of="imle",
        preset={"loss": "moments"},
        summary="GRU memory and an implicit generator; the moments of its samples match real latents under kernels.",
        paper="Li et al. 2015, moment matching (GMMN), arXiv:1502.02761; Gneiting & Raftery 2007",
        api=1,
    )
