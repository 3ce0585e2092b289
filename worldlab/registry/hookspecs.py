"""Defines the hooks that a plugin implements. This page is the whole plugin API.

A plugin is a module named by an entry point of the group "worldlab":

    [project.entry-points.worldlab]
    hello = "worldlab_hello"

which registers its components without importing torch:

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
"""The plugin API of this worldlab. A component registered for another API version is rejected with a message."""

hookspec = pluggy.HookspecMarker("worldlab")
hookimpl = pluggy.HookimplMarker("worldlab")
"""Decorator that marks a plugin's function as the implementation of the hook of the same name."""


class RegisterRole(Protocol):
    """Registers one component of a role.

    name: what users type; letters, digits, ".", "_", "-". target: "module:Attribute", imported only when the
    component is used. config: its settings; None if it has none. summary: one sentence for lists.
    api: version of the plugin API that it was written for. paper: its source, e.g. "arXiv:1312.6114". preset: settings
    of this name that override the defaults of `config`. variant_of: another name of the same config, whose tables in
    files apply too.
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
    """The argument of `worldlab_register`: one method per role."""

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
    @property
    def dataset(self) -> RegisterRole: ...
    @property
    def tracker(self) -> RegisterRole: ...
    @property
    def store(self) -> RegisterRole: ...

    def presets(self, folder: Path) -> None:
        """Register a folder of presets: its laptop.toml overrides the core's preset "laptop"; a new name is a new preset."""
        ...


@hookspec
def worldlab_register(register: Register) -> None:
    """Register the components of this plugin. It runs at every start, so import nothing heavy."""
