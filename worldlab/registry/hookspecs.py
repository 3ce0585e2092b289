"""What a plugin may implement. This page is the whole plugin API.

A plugin is a module named by an entry point of the group "worldlab":

    [project.entry-points.worldlab]
    hello = "worldlab_hello"

which registers what it brings, without importing torch:

    from worldlab import Config, hookimpl

    class HelloConfig(Config): ...

    @hookimpl
    def worldlab_register(register):
        register.encoder("hello", "worldlab_hello.model:HelloEncoder", config=HelloConfig, summary="...")
        register.presets(Path(__file__).with_name("presets"))  # if it has settings for them
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pluggy

from worldlab.settings import Config

API_VERSION = 1
"""The plugin API of this worldlab. A component that names another one is refused with a message."""

hookspec = pluggy.HookspecMarker("worldlab")
hookimpl = pluggy.HookimplMarker("worldlab")
"""Decorator that marks a plugin's function as the implementation of the hook of the same name."""


class RegisterRole(Protocol):
    """Registers one component of a role.

    name: what users type; letters, digits, ".", "_", "-". target: "module:Attribute", imported only when the
    component is used. config: its settings; None for a component without any. summary: one sentence for lists.
    api: the plugin API it was written for. paper: its source, e.g. "arXiv:1312.6114". preset: settings that this name
    brings, over the defaults of `config`. variant_of: another name of the same config, whose tables in files apply too.
    """

    def __call__(
        self,
        name: str,
        target: str,
        *,
        config: type[Config] | None,
        summary: str,
        api: int = 1,
        paper: str = "",
        preset: Mapping[str, Any] | None = None,
        variant_of: str = "",
    ) -> None: ...


class Register(Protocol):
    """What `worldlab_register` is handed: one method a role."""

    @property
    def encoder(self) -> RegisterRole: ...
    @property
    def dynamics(self) -> RegisterRole: ...
    @property
    def decoder(self) -> RegisterRole: ...
    @property
    def agent(self) -> RegisterRole: ...
    @property
    def env(self) -> RegisterRole: ...
    @property
    def launcher(self) -> RegisterRole: ...

    def presets(self, folder: Path) -> None:
        """Register a folder of presets: laptop.toml in it is laid over the core's preset "laptop"; a new name is a new preset."""
        ...


@hookspec
def worldlab_register(register: Register) -> None:
    """Register the components this plugin brings. Runs at every start: import nothing heavy."""
