"""Computes the hash of a cell: it covers everything that can change the cell's numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, Protocol, runtime_checkable

import gymnasium

from worldlab.config import provenance
from worldlab.config.resolve import RunConfig
from worldlab.env.find import open_adapter
from worldlab.env.spaces import action_spec, record_schema
from worldlab.errors import PluginError
from worldlab.experience.data_records import EpisodeRecords, sha256_of
from worldlab.experience.dataset import open_dataset
from worldlab.registry import Registry
from worldlab.runs import folder, storage
from worldlab.study.compare.code import code_digest

FORMAT = 1
"""Incremented when the behaviour of cells changes without a change of version or code."""
_IRRELEVANT = (
    ("presets",),
    ("log",),
    ("env", "workers"),
    ("env", "timeout"),
    ("env", "restarts"),
    ("train", "threads"),
    ("train", "parallel"),
)
_WITHOUT_MODEL = {
    "random": ("env", "eval", "seed"),
    "model-free": ("env", "eval", "seed", "steps", "minutes", "strict", "device"),
}
"""The settings that affect a baseline without a world model."""
CELL = "worldlab.study.compare.cell"
"""The module that runs a cell. The core modules that it reaches can change a cell's numbers."""


def fingerprint(kind: str, config: RunConfig, env: Mapping[str, str | None], registry: Registry) -> str:
    """Return the SHA-256 of a cell in hex: of its kind, its configuration, and the versions and code of its parts.

    kind: "model", "untrained", "random", "model-free" (":NAME") or "data". env: as returned by `env_source`.
    Raises: PluginError if a part is not installed; StorageError if recorded data cannot be read.
    """
    settings = config.to_mapping()
    for *groups, leaf in _IRRELEVANT:
        table = settings
        for group in groups:
            table = table[group]
        del table[leaf]
    versions: dict[str, Any] = {**folder.versions(), "env": env, "code": code_digest(CELL)}
    needs = _WITHOUT_MODEL.get(kind.partition(":")[0])
    if needs is not None:
        settings = {key: settings[key] for key in needs}
    else:
        versions |= {
            place: {**part, "code": code_digest(registry.get(provenance.role_of(place), str(part["name"])).target)}
            for place, part in provenance.components(config, registry).items()
        }
    if config.core.data and needs is None:
        settings["data"] = data_digest(config.core.data, registry)
    content = {"format": FORMAT, "kind": kind, "settings": settings, "versions": versions}
    return storage.sha256_bytes(storage.dump_json(content, sort_keys=True))


@runtime_checkable
class HasPackages(Protocol):
    """An adapter (worldlab.env.find.EnvAdapter) whose environments other packages define."""

    def packages(self) -> tuple[str, ...]:
        """Return the names under which Python imports these packages."""
        ...


@cache
def data_digest(name: str, registry: Registry) -> str:
    """Return the SHA-256 of a data set's records in hex, whatever its format. Raises: ConfigError, PluginError."""
    dataset = open_dataset(name, registry)
    try:
        facts = dataset.facts
        schema = record_schema(facts.observation_space, action_spec(facts.action_space))
        return sha256_of(EpisodeRecords(dataset, schema), range(len(dataset.episodes)))
    finally:
        dataset.close()


def env_source(env_id: str, registry: Registry) -> dict[str, str | None]:
    """Return an environment's full id and the versions and digests of its source.

    Keys: id; distribution, version, sha256 (of a plugin file, else None) and code of the plugin that builds it.
    Environments that are registered with Gymnasium also have task (the packages, with versions, that register the
    environment and define its class) and task_code (the digests of their code); those of an adapter that names its
    packages have task.
    Raises: EnvError for an unknown id; PluginError.
    """
    adapter, full = open_adapter(registry, env_id)
    digests = {(source.distribution, source.version): source.sha256 for source in registry.sources}
    for entry in registry.registrations("env"):
        try:
            loaded = entry.load()
        except PluginError:
            continue  # it is not the adapter that was opened
        if loaded is adapter or type(adapter) is loaded:
            sha256 = digests.get((entry.distribution, entry.version))
            code = code_digest(entry.target)
            if isinstance(adapter, HasPackages):
                task = {"task": _with_versions(adapter.packages())}
            else:
                task = _task_source(full, entry.target.partition(":")[0].partition(".")[0])
            return {
                "id": full,
                "distribution": entry.distribution,
                "version": entry.version,
                "sha256": sha256,
                "code": code,
                **task,
            }
    raise AssertionError("the adapter that was opened is not registered")


@cache
def _task_source(full: str, adapter: str) -> dict[str, str | None]:
    """Return the packages behind an environment of Gymnasium, with versions, and the digests of their code.

    The digest tells apart two tasks of the same name, e.g. with different rewards.
    full: "Id" or "package.module:Id". adapter: the adapter's top-level package, which has a digest of its own.
    """
    registering, _, name = full.rpartition(":")
    try:
        entry = gymnasium.spec(name).entry_point
    except gymnasium.error.Error:
        return {}  # the adapter defines it, or has yet to register it
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    owners = [name for name in dict.fromkeys((registering, module)) if name and name.partition(".")[0] != adapter]
    if not owners:
        return {}
    tops = dict.fromkeys(name.partition(".")[0] for name in owners)
    return {
        "task": _with_versions(tops),
        "task_code": " ".join(code_digest(name) or "none" for name in owners),
    }


def _with_versions(packages: Iterable[str]) -> str:
    return ", ".join(f"{top} {_version(top)}" for top in packages)


@cache
def _version(top: str) -> str:
    """Return the version of the distribution that contains a top-level package: of several, the one of its name.

    MuJoCo 4 is several distributions in one package. After a return to MuJoCo 3, pip leaves the others behind.
    """
    distributions = metadata.packages_distributions().get(top)
    if not distributions:
        return "of no version"
    return metadata.version(next((name for name in distributions if name.replace("-", "_") == top), distributions[0]))
