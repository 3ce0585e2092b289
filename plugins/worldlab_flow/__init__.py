"""The flow family: invertible maps from noise, which give samples and exact densities from one network. See
README.md.
"""

from worldlab import hookimpl
from worldlab_flow.configs import FlowDecoderConfig, FlowDynamicsConfig, FlowEncoderConfig


@hookimpl
def worldlab_register(register) -> None:
    register.encoder(
        "flow",
        "worldlab_flow.encoder:FlowEncoder",
        config=FlowEncoderConfig,
        summary="Inverse autoregressive flow posterior: a sample and its exact log q in one pass.",
        paper="Kingma et al. 2016 (IAF, IAF-VAE), arXiv:1606.04934; Papamakarios et al. 2017, arXiv:1705.07057; "
        "Chen et al. 2022 (FORBES), arXiv:2205.11051",
        api=1,
    )
    register.dynamics(
        "flow",
        "worldlab_flow.dynamics:FlowDynamics",
        config=FlowDynamicsConfig,
        summary="GRU memory with a conditional spline coupling flow; for codes, an exact argmax flow.",
        paper="Durkan et al. 2019 (conditional flows), arXiv:1906.04032; Dinh et al. 2016 (RealNVP), arXiv:1605.08803; "
        "2014 (NICE), arXiv:1410.8516; Papamakarios et al. 2017 (MAF), arXiv:1705.07057; "
        "Hoogeboom et al. 2021 (argmax flows), arXiv:2102.05379",
        api=1,
    )
    register.decoder(
        "flow",
        "worldlab_flow.decoder:FlowDecoder",
        config=FlowDecoderConfig,
        summary="Conditional multi-scale Glow (or RealNVP) for images, a spline flow for vectors.",
        paper="Kingma & Dhariwal 2018 (Glow), arXiv:1807.03039; Dinh et al. 2016 (RealNVP), arXiv:1605.08803; "
        "Ho et al. 2019 (Flow++), arXiv:1902.00275",
        api=1,
    )
