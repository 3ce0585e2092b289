"""Settings of the launchers. Importable without heavy packages, so that `--help` is fast."""

from __future__ import annotations

from worldlab import Config


class LocalConfig(Config):
    """The local launcher has no settings."""


class RayConfig(Config):
    """Settings of a Ray cluster. Its nodes must see the comparison's folder and have worldlab at the same path."""

    address: str = ""
    """Address of the cluster: "HEAD:6379", or "auto" on one of its nodes. Empty: starts a cluster on this machine and
    stops it afterwards."""
