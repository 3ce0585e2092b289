"""Settings of the launchers. Light, so that `--help` is."""

from __future__ import annotations

from worldlab import Config


class LocalConfig(Config):
    """Nothing to set."""


class RayConfig(Config):
    """A Ray cluster. Its nodes must see the comparison's folder and have worldlab at the same path."""

    address: str = ""
    """Of the cluster: "HEAD:6379", or "auto" on one of its nodes. Empty: one of this machine alone is started, and ended."""
