"""worldlab plugins: what is installed, what is broken and why; `plugins show ROLE NAME`: one component."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from worldlab.commands.common import Parser, add_shared, emit
from worldlab.registry import ROLES, BrokenPlugin, Registration, Registry, load_registry
from worldlab.schema import settings_of


def run(argv: list[str]) -> int:
    if argv[:1] == ["show"]:
        return _show(argv[1:])
    parser = Parser("plugins", "List the installed components. `plugins show ROLE NAME` shows one with its settings.")
    parser.add_argument("--role", choices=ROLES, help="only this role")
    parser.add_argument("--verbose", action="store_true", help="targets, origins, papers, and where plugins broke")
    add_shared(parser)
    args = parser.read(argv)
    registry = load_registry(args.plugin)
    if args.json:
        components = [_component(entry) for entry in registry.registrations(args.role)]
        emit({"components": components, "broken": [_broken(plugin) for plugin in registry.broken]}, as_json=True)
    else:
        print(_table(registry, args))
    return 0


def _show(argv: list[str]) -> int:
    parser = Parser("plugins show", "Show one component with its settings.")
    parser.add_argument("role", metavar="ROLE", help=", ".join(ROLES))
    parser.add_argument("name", metavar="NAME", help="see: worldlab plugins")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of its settings")
    add_shared(parser)
    args = parser.read(argv)
    entry = load_registry(args.plugin).get(args.role, args.name)
    if args.schema:
        empty = {"type": "object", "properties": {}, "additionalProperties": False}
        print(json.dumps(entry.config.model_json_schema() if entry.config else empty))
        return 0
    settings = _settings(entry)
    if args.json:
        emit({**_component(entry), "settings": settings}, as_json=True)
        return 0
    emit({key: value for key, value in _component(entry).items() if value != ""}, as_json=False)
    print("settings:" if settings else "settings: none")
    for item in settings:
        print(f"  {item['path']} = {json.dumps(item['default'])}  ({item['type']})  {item['help']}")
    return 0


def _settings(entry: Registration) -> list[dict[str, Any]]:
    if entry.config is None:
        return []
    defaults = entry.config.model_construct().model_dump(mode="json", warnings=False)
    found = []
    for setting in settings_of(entry.config):
        value: Any = defaults
        for key in setting.path:
            value = value.get(key) if isinstance(value, dict) else None
        found.append({"path": ".".join(setting.path), "type": setting.kind, "default": value, "help": setting.help})
    return found


def _component(entry: Registration) -> dict[str, Any]:
    keys = ("role", "name", "summary", "distribution", "version", "target", "origin", "api", "paper")
    return {key: getattr(entry, key) for key in keys}


def _broken(plugin: BrokenPlugin) -> dict[str, Any]:
    keys = ("name", "distribution", "version", "origin", "reason", "where", "fix")
    return {key: getattr(plugin, key) for key in keys}


def _table(registry: Registry, args: Namespace) -> str:
    entries = registry.registrations(args.role)
    rows = [("role", "name", "plugin", "summary")]
    rows += [(e.role, e.name, f"{e.distribution} {e.version}", e.summary) for e in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row, entry in zip(rows, (None, *entries), strict=True):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip())
        if entry is not None and args.verbose:
            lines.append(f"    {entry.target}  [{entry.origin}]  {entry.paper}".rstrip())
    if not entries:
        lines.append("(nothing is installed)")
    for plugin in registry.broken:
        lines.append(f"broken  {plugin.distribution} {plugin.version}: {plugin.reason}")
        if args.verbose:
            lines += [f"    at {plugin.where}  [{plugin.origin}]", f"    fix: {plugin.fix or 'repair or uninstall it'}"]
    if registry.broken and not args.verbose:
        lines.append("worldlab plugins --verbose   says where they broke")
    return "\n".join(lines)
