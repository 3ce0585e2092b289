"""One part of each role, each made from the template that `worldlab new-plugin` writes.

worldlab imports this module at every start: do not import torch here or in configs.py.
"""

from worldlab import hookimpl

from worldlab_parts.configs import FSQConfig, LaplaceConfig, MinGRUConfig, NiceConfig, ShootingConfig


@hookimpl
def worldlab_register(register):
    register.encoder(
        "grid",
        "worldlab_parts.encoder:FSQEncoder",
        config=FSQConfig,
        summary="Codes by rounding: finite scalar quantisation.",
        paper="Mentzer et al. 2023, arXiv:2309.15505",
    )
    register.dynamics(
        "mingru",
        "worldlab_parts.dynamics:MinGRUDynamics",
        config=MinGRUConfig,
        summary="A gated memory whose gates do not read it, so that a sequence is one product.",
        paper="Feng et al. 2024, arXiv:2410.01201",
    )
    register.decoder(
        "laplace",
        "worldlab_parts.decoder:LaplaceDecoder",
        config=LaplaceConfig,
        summary="A factorised Laplace of learned scale, with exact probabilities of grey levels.",
    )
    register.agent(
        "shooting",
        "worldlab_parts.agent:ShootingAgent",
        config=ShootingConfig,
        summary="Random shooting with the value of random play at the end of each plan.",
    )
    register.env(
        "catch",
        "worldlab_parts.env:CatchAdapter",
        config=None,
        summary="A ball falls and must be caught: 16 x 16 pictures, three actions.",
    )
    register.launcher(
        "nice",
        "worldlab_parts.launcher:NiceLauncher",
        config=NiceConfig,
        summary="One cell after the other at a low priority, so that the machine stays usable.",
    )
