"""worldlab train: resolves a configuration from presets, files and flags, and trains with it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from worldlab.cli.common import emit, prints_to_stderr
from worldlab.cli.flags import TrainFlags, help_head, help_text, read_flags
from worldlab.config.provenance import check_env_module, find_missing
from worldlab.config.resolve import PARTS, RunConfig, resolve
from worldlab.errors import ConfigError, PluginError, WorldlabError
from worldlab.registry import Registry, open_registry
from worldlab.runs.find import checked_run_path, find_run
from worldlab.runs.folder import RunFolder

log = logging.getLogger("worldlab")


def run(argv: list[str]) -> int:
    flags = read_flags(argv)
    registry = open_registry(flags.plugins)
    folder, files = _folder_and_files(flags)
    try:
        config = _resolve(flags, files, registry)
    except WorldlabError as error:
        if flags.help or flags.help_all:  # explain at least the settings that need no parts
            print(help_head(), flush=True)
        if isinstance(error, PluginError) and flags.resume and folder is not None:
            raise find_missing(folder, registry) or error from None
        raise
    if flags.help or flags.help_all:
        print(help_text(config, registry, flags.help_all))
        return 0
    if folder is not None and folder / "config.toml" in files:
        check_env_module(config, registry, flags.trusted, flags.settings)
    log.info("%s", _summary(config))
    with prints_to_stderr():
        from worldlab.training.signals import SecondInterrupt
        from worldlab.training.train import train

        try:
            result = train(config, registry, run=folder, resume=flags.resume, explain=flags.explain)
        except SecondInterrupt:
            # The run is closed. What Python does at its end takes seconds on a busy machine, which the user will not wait.
            sys.stderr.flush()
            os._exit(128 + signal.SIGINT)
    emit(result, flags.json)
    return 0


def _resolve(flags: TrainFlags, files: list[Path], registry: Registry) -> RunConfig:
    """Resolve the configuration; with a data set, its environment is looked up, unless only help is wanted."""
    layers = {"presets": flags.presets, "files": files, "flags": flags.settings}
    config = resolve(registry, **layers)
    if not config.core.data or flags.help or flags.help_all:
        return config
    from worldlab.training.data import resolve_run

    return resolve_run(registry, **layers)


def _folder_and_files(flags: TrainFlags) -> tuple[Path | None, list[Path]]:
    """Return run folder and config files. A resumed run reads its own config.toml first, if it has one."""
    if flags.help or flags.help_all:
        return None, flags.configs
    if not flags.resume:
        return (checked_run_path(flags.run) if flags.run else None), flags.configs
    folder = _find_resumed(flags)
    own = folder / "config.toml"
    if own.is_file():
        return folder, [own, *flags.configs]
    if not flags.chooses:
        raise ConfigError(f"run '{folder.name}' cannot be resumed", cause=f"{own} is missing", fix="start a new run")
    return folder, flags.configs


def _find_resumed(flags: TrainFlags) -> Path:
    """Return the folder of --run. It need not be there, if the command chooses what to train, or hold a run.json yet."""
    if flags.run is None:
        return find_run("latest")
    folder = Path(flags.run).expanduser()
    if RunFolder(folder).began:
        return folder
    try:
        return find_run(flags.run)
    except ConfigError:
        if not flags.chooses:  # a misspelt --run must not start a run of nothing but defaults
            raise
        log.info("there is no run '%s' yet: it starts now", folder.name)
        return checked_run_path(flags.run)


def _summary(config: RunConfig) -> str:
    parts = ", ".join(f"{role} {getattr(config, role).name}" for role in PARTS)
    core = config.core
    presets = " + ".join(config.presets) or "none"
    return f"env {core.env.id}, {parts}; preset {presets}, seed {core.seed}, {core.steps} steps"
