"""The contrastive family: parts that learn to tell what belongs together. README.md teaches it."""

from worldlab import hookimpl
from worldlab_cpc.configs import CPCDecoderConfig, CPCDynamicsConfig, CPCEncoderConfig


@hookimpl
def worldlab_register(register):
    register.encoder(
        "cpc",
        "worldlab_cpc.encoder:CPCEncoder",
        config=CPCEncoderConfig,
        summary="Deterministic latent with channel noise, trained to recognise its own frame (static InfoNCE).",
        paper="arXiv:1807.03748, arXiv:2106.07156",
        api=1,
    )
    register.dynamics(
        "cpc",
        "worldlab_cpc.dynamics:CPCDynamics",
        config=CPCDynamicsConfig,
        summary="GRU memory with a Gaussian contrastive critic that can also be sampled, plus k-step action heads.",
        paper="arXiv:1807.03748, arXiv:2106.07156",
        api=1,
    )
    register.decoder(
        "cpc",
        "worldlab_cpc.decoder:CPCDecoder",
        config=CPCDecoderConfig,
        summary="Contrastive observation model: a log-ratio, retrieval from a bank, no pixels of its own.",
        paper="arXiv:1807.03748, arXiv:2008.02430",
        api=1,
    )
