"""worldlab compare: compares a matrix of models on tasks under equal budgets, and writes a report.

The matrix comes from a matrix.toml, from flags, or from both; flags win. Settings of the runs are flags as in train.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldlab.cli.common import Parser, add_shared, at_least, emit, prints_to_stderr
from worldlab.cli.flags import read_flags
from worldlab.config.resolve import PARTS
from worldlab.config.schema import Text
from worldlab.errors import ConfigError, one_line
from worldlab.registry import open_registry
from worldlab.settings import CoreSettings
from worldlab.study.compare.matrix import AXES, DATA_SOURCES, SIZES, matrix_of, read_matrix

if TYPE_CHECKING:
    from worldlab.study.results import Comparison

OUT = Path("comparison")
_EPILOG = """\
Every setting of a run is also a flag: --steps N, --train.ratio R, --encoder.NAME.width W (see worldlab train --help).
Runs are strict on the CPU, so that an interrupted comparison ends with the same numbers, unless --device cuda,
--minutes or --no-strict is given. Finished cells are kept: run the same command again to resume a comparison.
Exit codes: 0 all cells finished, 1 some cells failed (listed in the report), 2 and up nothing was run."""


def run(argv: list[str]) -> int:
    own, settings, launcher = _split_flags(argv)
    args = _parser().read(own)
    layers = [read_matrix(args.matrix)] if args.matrix else []
    table = _flag_table(args, settings, launcher)
    if "data" in settings and not args.matrix and not args.env:
        table.setdefault("axes", {})["env"] = [_env_of_data(str(settings["data"]), args.plugin)]
    matrix = matrix_of(*layers, table)
    registry = open_registry(matrix.plugins)
    out = args.out or _output_folder(args.matrix)
    with prints_to_stderr():
        from worldlab.study.compare.run import Terminated, compare

        try:
            comparison = compare(matrix, registry, out, "worldlab compare " + shlex.join(argv))
        except KeyboardInterrupt as stop:
            print(
                f"stopped; finished cells are kept. Resume with: worldlab compare {out / 'matrix.toml'}",
                file=sys.stderr,
            )
            return 143 if isinstance(stop, Terminated) else 130
    result = _result(comparison, out)
    emit(result, args.json)
    return 1 if result["failed"] else 0


def _parser() -> Parser:
    parser = Parser("compare", "Compare models on tasks under equal budgets, and write a report.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("matrix", nargs="?", type=Path, metavar="matrix.toml", help="the matrix to compare; flags override it")
    add("--env", nargs="+", metavar="ID", help="environments to compare on")
    for role in PARTS:
        add(f"--{role}", nargs="+", metavar="NAME", help=f"{role} components; models are the product of all axes")
    add("--seeds", nargs="+", type=at_least(0), metavar="N", help="number of seeds, or a list of seeds (default: 5)")
    add("--preset", nargs="+", action="extend", metavar="P", help="packaged presets; later ones win")
    add(
        "--config", nargs="+", action="extend", type=Path, metavar="FILE", help="TOML files of settings; later ones win"
    )
    add(
        "--baselines",
        nargs="+",
        metavar="B",
        help="random, untrained, model-free[:ALGORITHM]; all; none (default: all)",
    )
    add("--measures", nargs="+", metavar="M", help="measures of each model: names, groups, all, none")
    add("--sizes", choices=SIZES, help="how much data the measures use; full takes longer")
    add(
        "--shared-data",
        nargs="?",
        const=DATA_SOURCES[0],
        choices=DATA_SOURCES,
        help="every model learns from one recording: the replay of the first model, or random play",
    )
    add(
        "--jobs",
        type=at_least(0),
        metavar="N",
        help="how many cells run at once; 0, the default, lets the launcher decide",
    )
    add(
        "--launcher",
        metavar="L",
        help="registered launcher that runs the cells; its settings are --launcher.NAME VALUE",
    )
    add("--title", metavar="TEXT", help="title of the report")
    add("--out", type=Path, metavar="DIR", help=f"output folder; a comparison in it is resumed (default: {OUT})")
    add_shared(parser)
    return parser


def _split_flags(argv: list[str]) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """Split the arguments into flags of the command, settings of the runs and settings of the launcher."""
    tokens, own, settings, launcher = list(argv), [], [], {}
    while tokens:
        token = tokens.pop(0)
        name, equals, text = token.partition("=")
        root = name.removeprefix("--").removeprefix("no-").replace("-", "_")
        group, dot, leaf = root.partition(".")
        known = (group in CoreSettings.model_fields or group in PARTS) if dot else root in CoreSettings.model_fields
        if not token.startswith("--") or not (known or (dot and group == "launcher")) or root in AXES:
            own.append(token)
            continue
        if root in ("seed", "env.id"):
            raise ConfigError(
                f"compare: {name} is not a flag here", fix="use --seeds 5" if root == "seed" else "use --env ID"
            )
        takes = not equals and not name.startswith("--no-")
        value = [tokens.pop(0)] if takes and tokens and not _is_flag(tokens[0]) else []
        if group != "launcher":
            settings += [token, *value]
        elif equals or value:
            launcher[leaf] = Text(text if equals else value[0])
        else:
            raise ConfigError(one_line(f"compare: {name} needs a value"), fix=f"use {name} VALUE")
    return own, read_flags(settings).settings, launcher


def _is_flag(token: str) -> bool:
    """Return whether a token starts with "-" and is not a number."""
    return token.startswith("-") and not token[1:2].isdigit() and token[1:2] != "."


def _flag_table(args: argparse.Namespace, settings: dict[str, Any], launcher: dict[str, Any]) -> dict[str, Any]:
    """Return the flags as a table in the form of matrix.toml, without flags that are not given."""
    seeds = args.seeds[0] if args.seeds and len(args.seeds) == 1 else args.seeds
    table: dict[str, Any] = {
        "axes": {axis: getattr(args, axis) for axis in AXES if getattr(args, axis)},
        "seeds": seeds,
        "presets": args.preset,
        "configs": [str(path) for path in args.config or []],
        "plugins": [str(path) for path in args.plugin],
        "settings": settings,
        "baselines": args.baselines,
        "measures": args.measures,
        "sizes": args.sizes,
        "jobs": args.jobs,
        "shared_data": args.shared_data,
        "launcher": {**({"name": args.launcher} if args.launcher else {}), **launcher},
        "title": args.title,
    }
    return {key: value for key, value in table.items() if value is not None and value not in ({}, [])}


def _env_of_data(data: str, plugins: list[Path]) -> str:
    """Return the environment that a data set names. Raises: ConfigError if it names none."""
    from worldlab.training.data import data_facts

    found = data_facts(data, open_registry(plugins)).env_id
    if not found:
        raise ConfigError("compare: the data set does not name its environment", fix="--env ID, in which to evaluate")
    return found


def _output_folder(matrix: Path | None) -> Path:
    """Return the output folder: that of the matrix.toml if it belongs to a comparison, else the default."""
    return matrix.parent if matrix is not None and (matrix.parent / "cells").is_dir() else OUT


def _result(comparison: Comparison, out: Path) -> dict[str, Any]:
    status = [trial.status for trial in comparison.trials]
    failures = {f"{t.method} {t.env} seed {t.seed}": t.cause for t in comparison.trials if t.status == "failed"}
    return {
        "title": comparison.title,
        "finished": status.count("finished"),
        "failed": len(status) - status.count("finished"),
        **({"failures": failures} if failures else {}),
        "report": str(out / "report.html"),
        "folder": str(out),
    }
