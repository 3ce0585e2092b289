"""worldlab new-plugin NAME: write a plugin that trains and passes every check, to be made one's own."""

from __future__ import annotations

import importlib.util
import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from worldlab.cli.common import Parser, add_shared, emit
from worldlab.cli.scaffold.files import SUMMARIES, PluginName, render_package, render_single_file
from worldlab.errors import ConfigError, StorageError, did_you_mean, one_line
from worldlab.registry import ROLES, load_registry
from worldlab.runs.storage import make_folder, new_staging, publish_folder, remove_tree, write_new

TRIAL = "--env Pendulum --preset debug"
"""How the new plugin is trained first: a minute or two."""


def run(argv: list[str]) -> int:
    parser = Parser("new-plugin", "Write a new plugin that trains and passes every check, to be made your own.")
    parser.add_argument("name", metavar="NAME", help="lower-case letters, digits, hyphens: my-idea")
    parser.add_argument("--role", action="append", metavar="ROLE", help=_ROLE_HELP)
    parser.add_argument("--single-file", action="store_true", help="one file for --plugin instead of a package")
    parser.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    add_shared(parser, plugin=False)
    args = parser.read(argv)
    name, roles = PluginName.read(args.name), _roles(args.role or ["encoder"])
    folder = args.dir.expanduser()
    target = folder / (name.file if args.single_file else name.distribution)
    _refuse_what_is_there(folder, target)
    _refuse_taken(name, single=args.single_file)
    try:
        files = _write(target, name, roles, args.single_file)
    except StorageError as exc:  # the advice it comes with is for runs
        raise StorageError(exc.message, cause=exc.cause, fix="write somewhere else: --dir DIR") from exc
    _report(name, roles, target, files, args)
    return 0


_ROLE_HELP = f"{', '.join(SUMMARIES)}; may be repeated (default: encoder)"


def _roles(asked: Sequence[str]) -> list[str]:
    """The roles in the contract's order, each once. Raises: ConfigError."""
    for role in asked:
        if role in ROLES and role not in SUMMARIES:
            raise ConfigError(
                f"new-plugin writes no {role}: there is no small one that stands for all",
                fix=f'read "{role.capitalize()}" in docs/plugins.md; it is registered as every other part is',
            )
        if role not in SUMMARIES:
            raise ConfigError(
                one_line(f"new-plugin: no role named {role!r}.{did_you_mean(role, SUMMARIES)}"),
                fix=f"--role takes {', '.join(SUMMARIES)}",
            )
    return [role for role in SUMMARIES if role in asked]


def _refuse_what_is_there(folder: Path, target: Path) -> None:
    """Raises: StorageError if there is no folder to write into, or something is where the plugin would be."""
    if not folder.is_dir():
        raise StorageError(
            one_line(f"there is no folder '{folder}' to write into"), fix=f"mkdir -p {shlex.quote(str(folder))}"
        )
    if target.exists() or target.is_symlink():
        raise StorageError(
            one_line(f"'{target}' is already there; nothing was written"),
            cause="new-plugin never writes over anything",
            fix="choose another name, move it away, or write somewhere else: --dir DIR",
        )


def _refuse_taken(name: PluginName, single: bool) -> None:
    """Raises: ConfigError if an installed plugin has this name, or an installed module the name of the file."""
    registry = load_registry()
    for entry in (entry for role in ROLES for entry in registry.registrations(role) if entry.name == name.name):
        raise ConfigError(
            one_line(f"the name {name.name!r} is taken: {entry.role} of {entry.distribution} {entry.version}"),
            cause="two plugins of one name cannot be told apart; the later one would not load",
            fix="choose another name; `worldlab plugins` lists those in use",
        )
    module = name.file.removesuffix(".py") if single else name.package
    if _importable(module):
        raise ConfigError(
            one_line(f"the name {name.name!r} is taken: Python already has a module {module}"),
            cause="yours would hide it, or it yours",
            fix=f"choose another name, as {name.name}-{'plugin' if single else 'two'}",
        )


def _importable(module: str) -> bool:
    with suppress(ImportError, ValueError):  # a module that is half there counts as absent
        return importlib.util.find_spec(module) is not None
    return False


def _requirement() -> str:
    """What a plugin written today requires: this minor version, within which the contract only grows."""
    import worldlab

    found = re.match(r"(\d+)\.(\d+)\.", worldlab.__version__)
    if not found:
        return "worldlab"  # a source tree that was never installed has no version
    major, minor = int(found[1]), int(found[2])
    return f"worldlab>={major}.{minor},<{major}.{minor + 1}"


def _write(target: Path, name: PluginName, roles: Sequence[str], single: bool) -> list[str]:
    """Write the plugin whole or not at all; return the files' paths in it. Raises: StorageError."""
    if single:
        write_new(target, [render_single_file(name, roles).encode()])
        return [name.file]
    files = render_package(name, roles, _requirement())
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
    """Say what was written and the commands that come next."""
    flags = " ".join(f"--{role} {name.name}" for role in roles)
    path = shlex.quote(str(target))
    if args.single_file:
        following = [f"worldlab check-plugin {path}", f"worldlab train --plugin {path} {flags} {TRIAL}"]
    else:
        following = [f"pip install -e {path}", f"worldlab check-plugin {name.name}", f"worldlab train {flags} {TRIAL}"]
    if args.json:
        result = {"name": name.name, "roles": list(roles), "path": target, "files": list(files), "next": following}
        emit(result, as_json=True)
        return
    print(f"wrote {target}")
    if not args.single_file:
        print("\n".join(f"  {file}" for file in files))
    print("\nnext:\n" + "\n".join(f"  {command}" for command in following))
