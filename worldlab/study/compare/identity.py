"""What makes two cells the same experiment: a hash of all that can change its numbers, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium

from worldlab.config import provenance
from worldlab.config.resolve import RunConfig
from worldlab.env.find import open_adapter
from worldlab.errors import PluginError
from worldlab.registry import Registry
from worldlab.runs import folder, storage
from worldlab.study.compare.code import code_digest

FORMAT = 1
"""Raised when what a cell does changes in a way that no version tells."""
_IRRELEVANT = (("presets",), ("log",), ("env", "workers"), ("train", "threads"))
_WITHOUT_MODEL = {
    "random": ("env", "eval", "seed"),
    "model-free": ("env", "eval", "seed", "steps", "minutes", "strict", "device"),
}
"""The settings that matter to a baseline that has no world model."""
CELL = "worldlab.study.compare.cell"
"""The module that runs a cell: what it reaches of the core is what can change a cell's numbers."""


def fingerprint(kind: str, config: RunConfig, env: Mapping[str, str | None], registry: Registry) -> str:
    """SHA-256 in hex of a cell: its kind, its configuration, and the versions and code of what it is made of.

    kind: "model", "untrained", "random" or "model-free" (":NAME"). env: of `env_source`.
    Raises: PluginError if a part is not here; StorageError for recorded experience that cannot be read.
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
            role: {**part, "code": code_digest(registry.get(role, str(part["name"])).target)}
            for role, part in provenance.components(config, registry).items()
        }
    if config.core.replay.source and needs is None:
        settings["replay"]["source"] = recording_digest(Path(config.core.replay.source))
    content = {"format": FORMAT, "kind": kind, "settings": settings, "versions": versions}
    return storage.sha256_bytes(storage.dump_json(content, sort_keys=True))


@cache
def recording_digest(folder: Path) -> str:
    """SHA-256 in hex of recorded experience: the segment files of a run folder, by name. Raises: StorageError."""
    place = folder / "replay" if (folder / "replay").is_dir() else folder
    with storage.storage_errors(place, "read"):
        digests = [[path.name, storage.sha256_file(path).sha256] for path in sorted(place.glob("seg-*.log"))]
    return storage.sha256_bytes(storage.dump_json(digests))


def env_source(env_id: str, registry: Registry) -> dict[str, str | None]:
    """An environment's full id, and the plugin that builds it: distribution, version, sha256 (of a file, else None), code.
    task, task_code: the packages, with versions, that registered it with Gymnasium and hold its class; and their code.

    Raises: EnvError if nobody knows the id; PluginError.
    """
    adapter, full = open_adapter(registry, env_id)
    digests = {(source.distribution, source.version): source.sha256 for source in registry.sources}
    for entry in registry.registrations("env"):
        try:
            loaded = entry.load()
        except PluginError:
            continue  # not the one that was opened
        if loaded is adapter or type(adapter) is loaded:
            sha256 = digests.get((entry.distribution, entry.version))
            code = code_digest(entry.target)
            return {
                "id": full,
                "distribution": entry.distribution,
                "version": entry.version,
                "sha256": sha256,
                "code": code,
                **_task(full, entry.target.partition(":")[0].partition(".")[0]),
            }
    raise AssertionError("an adapter that was opened is registered")


@cache
def _task(full: str, adapter: str) -> dict[str, str | None]:
    """Who wrote an environment that Gymnasium has registered, and what: with another reward it is another task of the same name.

    full: "Id" or "package.module:Id"; adapter: the top-level package that was digested already.
    """
    registering, _, name = full.rpartition(":")
    try:
        entry = gymnasium.spec(name).entry_point
    except gymnasium.error.Error:
        return {}  # an adapter's own, or one that it has yet to register
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    owners = [name for name in dict.fromkeys((registering, module)) if name and name.partition(".")[0] != adapter]
    if not owners:
        return {}
    tops = dict.fromkeys(name.partition(".")[0] for name in owners)
    return {
        "task": ", ".join(f"{top} {_version(top)}" for top in tops),
        "task_code": " ".join(code_digest(name) or "none" for name in owners),
    }


@cache
def _version(top: str) -> str:
    """Of the distribution that a top-level package came with."""
    distributions = metadata.packages_distributions().get(top)
    return metadata.version(distributions[0]) if distributions else "of no version"
