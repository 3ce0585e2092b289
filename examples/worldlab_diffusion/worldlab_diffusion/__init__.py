"""Rectified flow: a learned velocity field that transports noise to data. README.md explains the family."""

from worldlab import hookimpl

from worldlab_diffusion.configs import RectifiedFlowDecoderConfig, RectifiedFlowDynamicsConfig


@hookimpl
def worldlab_register(register):
    register.dynamics(
        "rectified-flow",
        "worldlab_diffusion.dynamics:RectifiedFlowDynamics",
        config=RectifiedFlowDynamicsConfig,
        summary="GRU memory; predicts the next latent, real or codes, by flow matching and a few ODE steps.",
        paper="arXiv:2210.02747, arXiv:2209.03003",
        api=1,
    )
    register.decoder(
        "rectified-flow",
        "worldlab_diffusion.decoder:RectifiedFlowDecoder",
        config=RectifiedFlowDecoderConfig,
        summary="Images and vectors by flow matching: a small U-Net, an MLP, and a few ODE steps.",
        paper="arXiv:2210.02747, arXiv:2209.03003",
        api=1,
    )
