"""worldlab export RUN: writes the recorded steps of a run, or any data set, in a format that other libraries read."""

from __future__ import annotations

from pathlib import Path

from worldlab.cli.common import Parser, add_shared, emit, prints_to_stderr
from worldlab.errors import ConfigError, one_line
from worldlab.registry import Registry, open_registry
from worldlab.runs.find import find_run
from worldlab.runs.stores import split_address


def run(argv: list[str]) -> int:
    parser = Parser("export", "Write recorded steps in a format that other libraries read.")
    parser.add_argument("data", metavar="RUN", help="a run, its name under runs/, or any data set (PATH, FORMAT:NAME)")
    parser.add_argument(
        "--format", required=True, metavar="F", help="the name of a format: worldlab plugins --role dataset"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="a file or folder that is not there yet"
    )
    add_shared(parser)
    args = parser.read(argv)
    registry = open_registry(args.plugin)
    with prints_to_stderr():
        result = _export(args.data, args.format, args.out, registry)
    emit(result, args.json)
    return 0


def _export(data: str, format: str, out: Path, registry: Registry) -> dict[str, object]:
    from worldlab.experience.dataset import WritesDataset, load_format, open_dataset

    writer = load_format(format, registry)
    if not isinstance(writer, WritesDataset):
        raise ConfigError(
            f"the format {format!r} is only read",
            cause="it cannot hold every recording without loss",
            fix=f"--format {' or '.join(name for name in registry.names('dataset') if name != format)}",
        )
    if out.exists() or out.is_symlink():
        raise ConfigError(one_line(f"{str(out)[-60:]!r} is there already"), fix="--out with a new name")
    local = Path(data).exists() or (":" in data and split_address(data, registry) is None)
    name = data if local else str(find_run(data, registry=registry))
    dataset = open_dataset(name, registry)
    try:
        writer.write(dataset, out)
    finally:
        dataset.close()
    written = open_dataset(f"{format}:{out}", registry)
    try:
        facts = written.facts
        return {
            "format": facts.format,
            "env": facts.env_id or "not named",
            "episodes": len(written.episodes),
            "decisions": sum(episode.length for episode in written.episodes),
            "out": str(out),
        }
    finally:
        written.close()
