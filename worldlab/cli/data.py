"""worldlab data inspect PATH: says what is in a data set, what is missing and what is wrong."""

from __future__ import annotations

from pathlib import Path

from worldlab.cli.common import Parser, add_shared, emit, prints_to_stderr
from worldlab.registry import open_registry


def run(argv: list[str]) -> int:
    parser = Parser("data", "Say what is in a data set, what is missing and what is wrong; it is only read.")
    parser.add_argument("action", choices=("inspect",), metavar="inspect", help="what to do")
    parser.add_argument(
        "data", metavar="PATH", help="a file or folder, or FORMAT:NAME (worldlab plugins --role dataset)"
    )
    parser.add_argument("--strip", type=Path, metavar="FILE.png", help="draw the beginning of the longest episode")
    add_shared(parser)
    args = parser.read(argv)
    registry = open_registry(args.plugin)
    with prints_to_stderr():
        from worldlab.experience.dataset import open_dataset
        from worldlab.experience.inspect_data import inspect

        dataset = open_dataset(args.data, registry)
        found = inspect(dataset)
        result = found.summary()
        if args.strip is not None:
            result["strip"] = _draw(dataset, args.strip)
        dataset.close()
    emit(result, args.json)
    return 1 if found.findings else 0


def _draw(dataset, path: Path) -> Path:
    from worldlab.experience.inspect_data import strip_of
    from worldlab.runs.pictures import save_png, strip, vector_strip
    from worldlab.runs.storage import make_folder

    found = strip_of(dataset)
    assert found is not None
    key, frames = found
    picture = strip({key: frames}) if frames.ndim == 4 else vector_strip(frames)
    return save_png(picture, make_folder(path.absolute().parent) / path.name)
