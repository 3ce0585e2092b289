"""Launchers: run the cells of a comparison on this machine or on a cluster."""

from __future__ import annotations

from worldlab import hookimpl
from worldlab_launchers.configs import LocalConfig, RayConfig


@hookimpl
def worldlab_register(register) -> None:
    register.launcher(
        "local",
        "worldlab_launchers.local:LocalLauncher",
        config=LocalConfig,
        summary="processes on this machine",
        api=1,
    )
    register.launcher(
        "ray",
        "worldlab_launchers.ray:RayLauncher",
        config=RayConfig,
        summary="a Ray cluster, by default one started on this machine",
        paper="Moritz et al. 2018, arXiv:1712.05889",
        api=1,
    )
