"""Finds and loads plugins one at a time, so that a broken plugin does not affect the others.

pluggy checks and calls the hooks, but the loop is our own: pluggy's entry-point loader stops at the first broken
plugin, silently drops a duplicate name and does not report which plugin failed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partialmethod
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from worldlab.errors import closest, is_from_user
from worldlab.registry import hookspecs
from worldlab.registry.entries import BUILTIN, BrokenPlugin, Registration, Source
from worldlab.registry.faults import Fault, explain, install_fix, where
from worldlab.registry.guard import guard_registration
from worldlab.registry.installed import Load, find_installed
from worldlab.registry.side_effects import restore_globals
from worldlab.settings import Config

GROUP = "worldlab"
HEAVY = ("torch", "gymnasium", "stable_baselines3", "matplotlib", "scipy", "tensorboard", "pandas", "jax", "tensorflow")
"""Libraries that a plugin should import with its components, not when it registers them."""
SLOW = 0.5
"""Seconds above which a registration is reported as slow."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", re.ASCII)
_HOOKS = tuple(name for name, item in vars(hookspecs).items() if inspect.isfunction(item) and name.startswith(GROUP))


@dataclass
class _Recorder:
    """The `register` object that a plugin gets; it collects the plugin's declarations."""

    source: Source
    found: list[Registration] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    """The last file:line that registered each (role, name)."""
    stage: str = "cannot be imported"

    def presets(self, folder: Path) -> None:
        """Note a folder of presets."""
        if not Path(folder).is_dir():
            caller = sys._getframe(1)
            here = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            raise Fault(f"registers presets in {folder}, which is no folder", where=here)
        self.folders.append(Path(folder))

    def _add(
        self,
        role: str,
        name: str,
        target: str,
        *,
        config: type[Config] | None,
        summary: str,
        api=1,
        paper: str = "",
        preset: Mapping[str, Any] | None = None,
        variant_of: str = "",
    ) -> None:
        caller = sys._getframe(1)
        here = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        entry = Registration(
            role,
            name,
            target,
            config,
            summary,
            api,
            self.source.distribution,
            self.source.version,
            self.source.origin,
            paper,
            dict(preset or {}),
            variant_of,
        )
        self.found.append(entry)
        self.places[role, name] = here
        if api != hookspecs.API_VERSION:
            newer = isinstance(api, int) and api > hookspecs.API_VERSION
            fix = f"pip install -U {BUILTIN if newer else self.source.distribution}"
            raise Fault(f"needs worldlab API v{api}, this is v{hookspecs.API_VERSION}", where=here, fix=fix)
        problem = _declaration_problem(entry)
        if problem:
            raise Fault(f"registers {role} {name!r} wrongly: {problem}", where=here)

    encoder = partialmethod(_add, "encoder")
    dynamics = partialmethod(_add, "dynamics")
    decoder = partialmethod(_add, "decoder")
    agent = partialmethod(_add, "agent")
    env = partialmethod(_add, "env")
    launcher = partialmethod(_add, "launcher")
    dataset = partialmethod(_add, "dataset")
    store = partialmethod(_add, "store")
    tracker = partialmethod(_add, "tracker")


class _PluginManager(pluggy.PluginManager):
    """Accepts a function named worldlab_* as a hook even if the decorator @hookimpl was forgotten."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name in _own_hooks(plugin):
            return {}
        return options


def discover(
    plugin_files: Sequence[Path] = (), *, builtin_only: bool = False
) -> tuple[list[Registration], list[BrokenPlugin], list[Source], list[Path]]:
    """Load the installed plugins and the given files.

    Returns: registrations, broken plugins, sources in use, and folders of presets.

    The order is fixed (built-ins, then by distribution and entry point, then the files as given), so of two plugins
    that register the same name, always the same one is rejected.
    """
    table: dict[tuple[str, str], Registration] = {}
    broken: list[BrokenPlugin] = []
    sources: list[Source] = []
    folders: list[Path] = []
    for source, load in [*find_installed(GROUP, builtin_only), *_files(plugin_files)]:
        recorder = _Recorder(source)
        start, modules = time.perf_counter(), set(sys.modules)
        try:
            _load_one(source, load, recorder)
            _refuse_clash(recorder, table)
        except BaseException as exc:  # whatever a plugin raises must not end worldlab
            if is_from_user(exc):
                raise KeyboardInterrupt from None
            broken.append(_record(source, exc, recorder))
        else:
            table.update({(entry.role, entry.name): entry for entry in recorder.found})
            sources.append(replace(source, cost=_cost(start, modules)))
            folders += recorder.folders
    return list(table.values()), broken, sources, folders


def _load_one(source: Source, load: Load, recorder: _Recorder) -> None:
    with restore_globals() as changed, guard_registration():
        module = load()
        recorder.stage = "fails in worldlab_register"
        _check_hooks(module)
        manager = _PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module, name=source.label)
        manager.check_pending()
        manager.hook.worldlab_register(register=recorder)
    if changed:
        raise Fault(
            f"changes {' and '.join(state.name for state in changed)} when imported (restored)",
            where=str(getattr(module, "__file__", None) or source.origin),
            fix=changed[0].fix,
        )


def _files(paths: Sequence[Path]) -> list[tuple[Source, Load]]:
    found = []
    taken: dict[str, Path] = {}
    for path in dict.fromkeys(Path(p).expanduser().resolve() for p in paths):
        data = path.read_bytes() if path.is_file() else None
        digest = hashlib.sha256(data).hexdigest() if data is not None else None
        version = f"sha256:{digest[:12]}" if digest else ""
        source = Source(path.stem, f"file:{path.name}", version, f"--plugin {path}", path, digest)
        module = "worldlab_file_" + re.sub(r"\W", "_", path.stem, flags=re.ASCII)
        found.append((source, _file_loader(module, path, data, digest, taken.get(module))))
        taken.setdefault(module, path)
    return found


def _file_loader(module: str, path: Path, data: bytes | None, digest: str | None, taken: Path | None) -> Load:
    def load() -> ModuleType:
        if data is None:
            raise Fault("is not a file", where=str(path), fix="--plugin takes the path of one .py file")
        if taken is not None:
            raise Fault(f"has the same file name as {taken}", where=str(path), fix=f"rename {path.name}")
        return _import_file(module, path, data, digest or "")

    return load


class _SourceBytes(importlib.abc.ExecutionLoader):
    """Runs exactly the bytes that were hashed, and writes no cache next to the user's file."""

    def __init__(self, path: Path, data: bytes):
        self._path = path
        self._data = data

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._data)


def _import_file(name: str, path: Path, data: bytes, digest: str) -> ModuleType:
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__worldlab_source__", None) == (str(path), digest):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceBytes(path, data))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)["__worldlab_source__"] = (str(path), digest)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _own_hooks(module: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions that a plugin defines (not imports) with the reserved prefix worldlab_."""
    return {
        name: item
        for name, item in vars(module).items()
        if name.startswith("worldlab_") and inspect.isfunction(item) and item.__module__ == module.__name__
    }


def _check_hooks(module: ModuleType) -> None:
    """Raise Fault, with a suggestion, for a misspelt hook or a module without worldlab_register."""
    own = _own_hooks(module)
    marked = {
        name for name, item in vars(module).items() if hasattr(item, "worldlab_impl") and inspect.isfunction(item)
    }
    for name in sorted({*own, *marked} - set(_HOOKS)):
        _refuse_hook(f"defines {name}, which is no hook", name, getattr(module, name))
    if "worldlab_register" not in {*own, *marked}:
        defined = {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
        near = closest("worldlab_register", defined)
        if near:
            _refuse_hook(f"defines {near}, which is no hook", near, defined[near])
        raise Fault(
            "defines no function worldlab_register(register)",
            where=str(module.__file__ or module.__name__),
            fix="add it (worldlab new-plugin writes one), or name the package that has it",
        )


def _refuse_hook(reason: str, name: str, function: Callable[..., Any]) -> None:
    code = inspect.unwrap(function).__code__
    near = closest(name, _HOOKS)
    hint = f". Did you mean {near}?" if near else f". Hooks: {', '.join(_HOOKS)}"
    raise Fault(reason + hint, where=f"{code.co_filename}:{code.co_firstlineno}")


def _declaration_problem(entry: Registration) -> str:
    if not isinstance(entry.name, str) or not _NAME.fullmatch(entry.name):
        return "a name may contain letters, digits, '.', '_' and '-'"
    if isinstance(entry.target, type):
        return f'the target is a class, not a string; write f"{{__name__}}:{entry.target.__name__}"'
    if not isinstance(entry.target, str) or not _TARGET.fullmatch(entry.target):
        return f"target {entry.target!r} is not 'module:Attribute'"
    if entry.config is not None and not (isinstance(entry.config, type) and issubclass(entry.config, Config)):
        return f"config {entry.config!r} is not a worldlab.Config class"
    if entry.config is not None and "name" in entry.config.model_fields:
        return "a setting cannot be called 'name', which is the component's name"
    if not isinstance(entry.summary, str) or not entry.summary.strip():
        return "the summary is empty"
    return ""


def _refuse_clash(recorder: _Recorder, table: dict[tuple[str, str], Registration]) -> None:
    mine: set[tuple[str, str]] = set()
    for entry in recorder.found:
        key = (entry.role, entry.name)
        if key in mine:
            raise Fault(f"registers {entry.role} {entry.name!r} twice", where=recorder.places[key])
        mine.add(key)
        if key in table:
            other = table[key]
            raise Fault(
                f"registers {entry.role} {entry.name!r}, which {other.label} already registers",
                where=recorder.places[key],
                fix=_clash_fix(entry, other),
            )


def _clash_fix(entry: Registration, other: Registration) -> str:
    """Return how to end a clash of names. Neither a file nor worldlab itself can be uninstalled."""
    removable = [one.distribution for one in (entry, other) if not one.file and one.distribution != BUILTIN]
    uninstall = f", or pip uninstall {' or '.join(removable)}" if removable else ""
    return f"give the {entry.role} another name" + (f" in {entry.file}" if entry.file else "") + uninstall


def _cost(start: float, modules: set[str]) -> str:
    """Describe the cost of a registration at every start, if notable: seconds and heavy libraries."""
    seconds = time.perf_counter() - start
    heavy = [name for name in HEAVY if name in sys.modules and name not in modules]
    if not heavy and seconds < SLOW:
        return ""
    return f"takes {seconds:.1f} s to register" + (f" and imports {', '.join(heavy)}" if heavy else "")


def _record(source: Source, exc: BaseException, recorder: _Recorder) -> BrokenPlugin:
    reason = explain(exc) if isinstance(exc, Fault) else f"{recorder.stage}: {explain(exc)}"
    fix = exc.fix if isinstance(exc, Fault) else install_fix(exc, source.distribution)
    place = exc.where if isinstance(exc, Fault) and exc.where else where(exc)
    claims = tuple((entry.role, entry.name) for entry in recorder.found)
    broken = BrokenPlugin(source.name, source.distribution, source.version, source.origin, reason, place, fix, claims)
    file_fix = fix or f"repair {source.path}"
    return replace(broken, path=source.path, fix=file_fix) if source.path else broken
