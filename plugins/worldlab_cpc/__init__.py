"""The contrastive family: parts trained to identify which observations and states belong together. See README.md."""

from worldlab import hookimpl
from worldlab_cpc.configs import (
    CPCDecoderConfig,
    CPCDynamicsConfig,
    CPCEncoderConfig,
    MAEEncoderConfig,
    SimNormEncoderConfig,
    TwisterDynamicsConfig,
)


@hookimpl
def worldlab_register(register):
    register.encoder(
        "cpc",
        "worldlab_cpc.encoder:CPCEncoder",
        config=CPCEncoderConfig,
        summary="Deterministic latent with channel noise, trained to identify its own frame (static InfoNCE).",
        paper="van den Oord et al. 2018 (CPC), arXiv:1807.03748; Nguyen et al. 2021 (TPC), arXiv:2106.07156",
        api=1,
    )
    register.dynamics(
        "cpc",
        "worldlab_cpc.dynamics:CPCDynamics",
        config=CPCDynamicsConfig,
        summary="GRU memory with a Gaussian contrastive critic that can be sampled, and k-step action heads.",
        paper="arXiv:1807.03748, arXiv:2106.07156",
        api=1,
    )
    register.decoder(
        "cpc",
        "worldlab_cpc.decoder:CPCDecoder",
        config=CPCDecoderConfig,
        summary="Contrastive observation model: a log-ratio and retrieval from a bank; it draws no pixels.",
        paper="arXiv:1807.03748, arXiv:2008.02430",
        api=1,
    )
    register.encoder(
        "mae",
        "worldlab_cpc.mae:MAEEncoder",
        config=MAEEncoderConfig,
        summary="masked autoencoder: a point latent whose encoder reconstructs masked patches",
        paper="He et al. 2021 (MAE; BERT: masked frames), arXiv:2111.06377; Seo et al. 2022 (MWM), arXiv:2206.14244",
        api=1,
    )
    register.encoder(
        "simnorm",
        "worldlab_cpc.simnorm:SimNormEncoder",
        config=SimNormEncoderConfig,
        summary="simplicial normalisation: a deterministic latent of several simplices, for models without a decoder",
        paper="Hansen et al. 2023 (TD-MPC2), arXiv:2310.16828; Lavoie et al. 2022, arXiv:2204.00616",
        api=1,
    )
    register.dynamics(
        "twister",
        "worldlab_cpc.twister:TwisterDynamics",
        config=TwisterDynamicsConfig,
        summary="any dynamics with action-conditioned CPC: contrastive predictions of several future steps",
        paper="Burchi & Timofte 2025 (TWISTER), arXiv:2503.04416",
        api=1,
    )
