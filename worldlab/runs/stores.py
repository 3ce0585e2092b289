"""Defines the store: a place where runs are published and fetched from. "hf:user/name" is a run of the store "hf".

A store is a plugin of the role "store": `register.store("hf", "package.module:HubStore", config=None, ...)`. It moves
files and nothing else. What a published run may hold, and that it is intact, is checked in `worldlab.runs.bundle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from worldlab.errors import ConfigError, build_part, did_you_mean, one_line


@dataclass(frozen=True)
class StoredRun:
    """A published run at a version that never changes. name: "user/name". version: such as the hash of a commit."""

    name: str
    version: str


@dataclass(frozen=True)
class RunCard:
    """The description of a run for people and for the index of a store.

    body: Markdown, without a header. facts: what an index may list: title, env, parts, tags, return_mean, return_std,
    episodes; an entry that is not known is missing. licence: its identifier, "" if none is stated.
    """

    body: str
    facts: dict[str, Any]
    licence: str = ""


@runtime_checkable
class RunStore(Protocol):
    """What a plugin registers as `store`: a class without constructor arguments.

    Every method raises ConfigError for a wrong address, a run that is not there or may not be read, PluginError for a
    missing package, and StorageError if the store cannot be reached.
    """

    def find(self, address: str) -> StoredRun:
        """Return the run of an address, such as "user/name" or "user/name@version"."""
        ...

    def fetch(self, run: StoredRun, file: str, folder: Path, limit: int) -> Path:
        """Download one file of a run into a folder and return its path. Refuse a file of more than `limit` bytes."""
        ...

    def publish(self, address: str, folder: Path, card: RunCard, *, private: bool) -> str:
        """Upload the files of a folder with a card, in place of an earlier version; return where people find the run."""
        ...


class StoreRegistry(Protocol):
    """Lists and loads stores: the part of `worldlab.registry.Registry` that this module uses."""

    def names(self, role: str) -> Sequence[str]: ...
    def get(self, role: str, name: str) -> Any: ...


def split_address(text: str, registry: StoreRegistry) -> tuple[str, str] | None:
    """Return store and address of "hf:user/name"; None for a text that begins with no registered store."""
    store, colon, address = text.partition(":")
    return (store, address) if colon and address and store in registry.names("store") else None


def open_store(text: str, registry: StoreRegistry) -> tuple[RunStore, str, str]:
    """Return the store of "hf:user/name", its name and the address in it. Raises: ConfigError; PluginError."""
    found = split_address(text, registry)
    if found is None:
        names = registry.names("store")
        example = names[0] if names else "STORE"
        raise ConfigError(
            one_line(
                f"{one_line(text, 40)!r} names no store.{did_you_mean(text.partition(':')[0], names)}"
                f" Installed: {', '.join(names) or 'none'}"
            ),
            fix=f"give it as {example}:user/name",
        )
    name, address = found
    loaded = registry.get("store", name).load()
    return build_part(RunStore, loaded, f"store plugin {name!r}", "a store", "find, fetch or publish"), name, address


__all__ = ["RunCard", "RunStore", "StoreRegistry", "StoredRun", "open_store", "split_address"]
