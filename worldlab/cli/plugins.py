"""worldlab plugins: list installed components and broken plugins; `plugins show ROLE NAME`: show one component.

The plain list imports no component and hence no torch. Abilities are known only after building a component: `show` and
`--verbose` build a small instance of each, and list a component that cannot be imported or built as broken.
"""

from __future__ import annotations

import json
from typing import Any

from worldlab.cli.common import Parser, add_shared, emit, prints_to_stderr
from worldlab.config.schema import Setting, settings_of
from worldlab.errors import PluginError, one_line
from worldlab.registry import ROLES, BrokenPlugin, Registration, load_registry


def run(argv: list[str]) -> int:
    if argv[:1] == ["show"]:
        return _show(argv[1:])
    parser = Parser("plugins", "List the installed components. `plugins show ROLE NAME` shows one with its settings.")
    parser.add_argument("--role", choices=ROLES, help="list only this role")
    parser.add_argument("--paper", metavar="TEXT", help="list only parts with this system, author or arXiv number")
    parser.add_argument(
        "--verbose", action="store_true", help="also show abilities, origins and papers, and where plugins failed"
    )
    add_shared(parser)
    args = parser.read(argv)
    with prints_to_stderr():
        registry = load_registry(args.plugin)
        chosen = [entry for entry in registry.registrations(args.role) if _mentions(entry, args.paper or "")]
        rows = [_describe(entry, load=args.verbose) for entry in chosen]
    good = [row for row in rows if row["status"] == "ok"]
    broken = [row for row in rows if row["status"] != "ok"] + [_describe_broken(plugin) for plugin in registry.broken]
    slow = [{"distribution": s.distribution, "version": s.version, "cost": s.cost} for s in registry.sources if s.cost]
    if args.json:
        emit({"components": good, "broken": broken, "slow": slow}, as_json=True)
        return 0
    print(_format_table(good, broken, args.verbose))
    if args.paper and not args.verbose:
        print("\n".join(f"{row['role']} {row['name']}: {row['paper']}" for row in good))
    for row in slow:
        print(f"slow    {row['distribution']} {row['version']}: {row['cost']}; move this into its components' modules")
    return 0


def _mentions(entry: Registration, text: str) -> bool:
    """Return whether the name, summary or paper of a component contains a text, whatever its case, spaces and hyphens."""
    where = " | ".join((entry.name, entry.summary, entry.paper))
    return _letters(text) in _letters(where)


def _letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum() or c in "+|")


def _show(argv: list[str]) -> int:
    parser = Parser("plugins show", "Show the abilities, settings and paper of one component.")
    parser.add_argument("role", metavar="ROLE", help=", ".join(ROLES))
    parser.add_argument("name", metavar="NAME", help="a name listed by `worldlab plugins`")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of its settings")
    add_shared(parser)
    args = parser.read(argv)
    with prints_to_stderr():
        entry = load_registry(args.plugin).get(args.role, args.name)
        row = {} if args.schema else _describe(entry, load=True)
    if args.schema:
        empty = {"type": "object", "properties": {}, "additionalProperties": False}
        print(json.dumps(entry.config.model_json_schema() if entry.config else empty))
        return 0
    settings = _settings(entry)
    if args.json:
        emit({**row, "settings": settings}, as_json=True)
        return 0
    emit({key: value for key, value in row.items() if value not in ("", {})}, as_json=False)
    print("settings:" if settings else "settings: none")
    for item in settings:
        rule = " ".join(filter(None, (item["type"], item["rule"])))
        print(f"  {item['path']} = {json.dumps(item['default'])}  ({rule})  {item['help']}")
    return 0


def _settings(entry: Registration) -> list[dict[str, Any]]:
    if entry.config is None:
        return []
    defaults = entry.config.model_construct().model_dump(mode="json", warnings=False)
    return [_setting(setting, defaults) for setting in settings_of(entry.config)]


def _setting(setting: Setting, defaults: Any) -> dict[str, Any]:
    value = defaults
    for key in setting.path:
        value = value.get(key) if isinstance(value, dict) else None
    return {
        "path": ".".join(setting.path),
        "type": setting.kind,
        "default": value,
        "choices": setting.choices,
        "bounds": dict(setting.bounds),
        "rule": setting.rule,
        "help": setting.help,
    }


def _describe(entry: Registration, load: bool) -> dict[str, Any]:
    """Return one row. load: also build the component to list its abilities; if that fails, the row is broken."""
    keys = ("role", "name", "summary", "distribution", "version", "target", "origin", "api", "paper")
    row = {**{key: getattr(entry, key) for key in keys}, "status": "ok"}
    if not load:
        return row
    from worldlab.testing import abilities_of

    try:
        return {**row, "abilities": abilities_of(entry)}
    except PluginError as exc:
        reason = exc.message.replace(entry.who, f"{entry.role} {entry.name!r}")  # the row has the distribution
        fault = {"reason": reason, "where": exc.cause or "", "fix": exc.fix or ""}
        return {**row, "status": "broken", **fault}


def _describe_broken(plugin: BrokenPlugin) -> dict[str, Any]:
    keys = ("name", "distribution", "version", "origin", "reason", "where", "fix")
    return {**{key: getattr(plugin, key) for key in keys}, "status": "broken"}


def _format_table(good: list[dict[str, Any]], broken: list[dict[str, Any]], verbose: bool) -> str:
    cells = [("role", "name", "plugin", "summary")]
    cells += [(row["role"], row["name"], f"{row['distribution']} {row['version']}", row["summary"]) for row in good]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    lines = []
    for shown, row in zip(cells, (None, *good), strict=True):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(shown, widths)), shown[3]]).rstrip())
        if row is not None and verbose:
            lines.append(f"    {row['target']}  [{row['origin']}]  {row['paper']}".rstrip())
            lines += [f"    {_format_abilities(row['abilities'])}"] if row["abilities"] else []
    if not good:
        lines.append("(nothing is installed)")
    for row in broken:
        lines.append(f"broken  {row['distribution']} {row['version']}: {one_line(row['reason'], 300)}")
        if verbose:
            lines.append(f"    at {row['where']}  [{row['origin']}]")
            lines.append(f"    fix: {row['fix'] or 'repair or uninstall it'}")
    if broken and not verbose:
        lines.append("worldlab plugins --verbose   shows where they failed")
    return "\n".join(lines)


def _format_abilities(abilities: dict[str, Any]) -> str:
    """Format abilities: {"posterior_kind": "analytic", "uses_memory": True} as "posterior_kind analytic, ..."."""
    plain = {True: "yes", False: "no"}
    return ", ".join(f"{key} {plain.get(value, value)}" for key, value in abilities.items())
