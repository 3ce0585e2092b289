"""worldlab new-plugin NAME: write a new plugin that trains and passes every check, as a starting point."""

from __future__ import annotations

import importlib.util
import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from worldlab.cli.common import Parser, add_shared, emit
from worldlab.cli.scaffold.files import (
    LATENTS,
    SUMMARIES,
    Contents,
    PluginName,
    render_package,
    render_single_file,
    try_command,
    with_file,
)
from worldlab.errors import ConfigError, StorageError, did_you_mean, one_line
from worldlab.registry import ROLES, load_registry
from worldlab.runs.storage import make_folder, new_staging, publish_folder, remove_tree, write_new

TRIAL = "--preset debug"
"""Flags of the suggested first run, which takes a minute or two."""


def run(argv: list[str]) -> int:
    parser = Parser("new-plugin", "Write a new plugin that trains and passes every check, as a starting point.")
    parser.add_argument("name", metavar="NAME", help="lower-case letters, digits and hyphens, e.g. my-idea")
    parser.add_argument("--role", action="append", metavar="ROLE", help=_ROLE_HELP)
    parser.add_argument("--latent", choices=LATENTS, help="latent of the encoder (default: gaussian)")
    parser.add_argument("--single-file", action="store_true", help="write one file for --plugin instead of a package")
    parser.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="folder to write into (default: here)")
    add_shared(parser, plugin=False)
    args = parser.read(argv)
    name, contents = PluginName.read(args.name), _contents(args.role or ["encoder"], args.latent)
    folder = args.dir.expanduser()
    target = folder / (name.file if args.single_file else name.distribution)
    _check_target_is_free(folder, target)
    _check_name_is_free(name, single=args.single_file)
    try:
        files = _write(target, name, contents, args.single_file)
    except StorageError as exc:  # its own fix is for run folders
        raise StorageError(exc.message, cause=exc.cause, fix="write into another folder: --dir DIR") from exc
    _report(name, contents.roles, target, files, args)
    return 0


_ROLE_HELP = f"{', '.join(SUMMARIES)}; may be repeated (default: encoder)"


def _contents(requested: Sequence[str], latent: str | None) -> Contents:
    """Return the requested roles in the order of SUMMARIES, each once. Raises: ConfigError for any other role."""
    for role in requested:
        if role not in SUMMARIES:
            raise ConfigError(
                one_line(f"new-plugin: no role named {role!r}.{did_you_mean(role, SUMMARIES)}"),
                fix=f"use --role with {', '.join(SUMMARIES)}",
            )
    if latent is not None and "encoder" not in requested:
        raise ConfigError(f"--latent {latent} needs an encoder", fix=f"--role encoder --latent {latent}")
    return Contents([role for role in SUMMARIES if role in requested], latent or "gaussian")


def _check_target_is_free(folder: Path, target: Path) -> None:
    """Check that the folder exists and the target does not. Raises: StorageError otherwise."""
    if not folder.is_dir():
        raise StorageError(
            one_line(f"the folder '{folder}' does not exist"), fix=f"mkdir -p {shlex.quote(str(folder))}"
        )
    if target.exists() or target.is_symlink():
        raise StorageError(
            one_line(f"'{target}' already exists; nothing was written"),
            cause="new-plugin never overwrites a file or folder",
            fix="choose another name, move it, or write into another folder: --dir DIR",
        )


def _check_name_is_free(name: PluginName, single: bool) -> None:
    """Check that no installed component or importable module has the name. Raises: ConfigError otherwise."""
    registry = load_registry()
    for entry in (entry for role in ROLES for entry in registry.registrations(role) if entry.name == name.name):
        raise ConfigError(
            one_line(f"the name {name.name!r} is taken: {entry.role} of {entry.distribution} {entry.version}"),
            cause="two components with the same name conflict; the one loaded later is broken",
            fix="choose another name; `worldlab plugins` lists the names in use",
        )
    module = name.file.removesuffix(".py") if single else name.package
    if _importable(module):
        raise ConfigError(
            one_line(f"the name {name.name!r} is taken: Python already has a module {module}"),
            cause="one of the two modules would hide the other",
            fix=f"choose another name, such as {name.name}-{'plugin' if single else 'two'}",
        )


def _importable(module: str) -> bool:
    with suppress(ImportError, ValueError):  # a partly installed module counts as absent
        return importlib.util.find_spec(module) is not None
    return False


def _requirement() -> str:
    """Return a new plugin's requirement on worldlab: this minor version, in which the contract is only extended."""
    import worldlab

    version = re.match(r"(\d+)\.(\d+)\.", worldlab.__version__)
    if not version:
        return "worldlab"  # a source tree that was never installed has no version
    major, minor = int(version[1]), int(version[2])
    return f"worldlab>={major}.{minor},<{major}.{minor + 1}"


def _write(target: Path, name: PluginName, contents: Contents, single: bool) -> list[str]:
    """Write all files of the plugin or none; return their paths in it. Raises: StorageError."""
    if single:
        write_new(target, [render_single_file(name, contents).encode()])
        return [name.file]
    files = render_package(name, contents, _requirement())
    staging = new_staging(target.parent)
    try:
        for path, text in files.items():
            make_folder((staging / path).parent)
            write_new(staging / path, [text.encode()])
        publish_folder(staging, target)
    except BaseException:
        with suppress(StorageError):
            remove_tree(staging)
        raise
    return list(files)


def _report(name: PluginName, roles: Sequence[str], target: Path, files: Sequence[str], args: Namespace) -> None:
    """Print what was written and the next commands."""
    trial = f"{try_command(name.name, roles)} {TRIAL}"
    path = shlex.quote(str(target))
    if args.single_file:
        next_commands = [f"worldlab check-plugin {path}", with_file(trial, path)]
    else:
        next_commands = [
            f"pip install -e {path}",
            f"worldlab check-plugin {name.name}",
            trial,
        ]
    if args.json:
        result = {"name": name.name, "roles": list(roles), "path": target, "files": list(files), "next": next_commands}
        emit(result, as_json=True)
        return
    print(f"wrote {target}")
    if not args.single_file:
        print("\n".join(f"  {file}" for file in files))
    print("\nnext:\n" + "\n".join(f"  {command}" for command in next_commands))
