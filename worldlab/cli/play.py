"""worldlab play RUN: opens a page in which one plays inside a trained model, beside the real environment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldlab.cli.common import RUN, Parser, add_best, add_shared, add_trust, at_least, emit, prints_to_stderr
from worldlab.errors import ConfigError, one_line
from worldlab.registry import open_registry
from worldlab.runs.find import find_run

if TYPE_CHECKING:
    from worldlab.evaluation.playing.session import PlaySession
    from worldlab.training.loaded import LoadedRun


def run(argv: list[str]) -> int:
    args = _parser().read(argv)
    if len(args.run) > 2:
        raise ConfigError(f"worldlab play shows one or two runs, got {len(args.run)}", fix="worldlab play RUN_A RUN_B")
    registry = open_registry(args.plugin)
    folders = [find_run(run, registry=registry) for run in args.run]
    headless = args.record is not None or args.export is not None
    if not headless:
        from worldlab.cli.web.server import require_packages

        require_packages("play")
    with prints_to_stderr():
        from worldlab.training.loaded import load_run

        loaded = [load_run(folder, registry, trusted=args.trust_env, best=args.best) for folder in folders]
        make, names = _game_of(loaded, args.seed)
        result = _save(make, names, args) if headless else None
    if result is not None:
        emit(result, args.json)
        return 0
    from worldlab.cli.web.play.game import play_site
    from worldlab.cli.web.server import serve

    def announce(address: str) -> None:
        if args.json:
            emit({"address": address, "runs": [name["name"] for name in names]}, as_json=True)
        else:
            print(f"{address}\nOnly this machine can open it. Ctrl-C stops it.", flush=True)

    serve(play_site(make, names), host=args.host, port=args.port, open_browser=not args.no_open, announce=announce)
    return 0


def _parser() -> Parser:
    parser = Parser("play", "Play inside a trained model, beside the real environment, in a page of your browser.")
    parser.add_argument("run", nargs="+", metavar="RUN", help=f"{RUN}; two to compare them")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="S", help="seed of episodes and dreams (default: 0)"
    )
    parser.add_argument("--no-open", action="store_true", help="print the address and open no browser")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--port", type=at_least(0), default=0, metavar="N", help="the port (default: a free one)")
    parser.add_argument("--record", type=Path, metavar="FILE.webp", help="no page: let the agent play and write a film")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="no page: write a static page of the agent's futures"
    )
    parser.add_argument(
        "--steps", type=at_least(10), default=150, metavar="N", help="steps of --record and --export (default: 150)"
    )
    add_best(parser)
    add_trust(parser)
    add_shared(parser)
    return parser


def _game_of(loaded: list[LoadedRun], seed: int) -> tuple[Callable[[], PlaySession], list[dict[str, Any]]]:
    """Return what makes a session of the runs, and what the page says of each run.

    Raises: ConfigError for a run without an environment; EnvError for two runs that have different ones.
    """
    from worldlab.evaluation.playing.session import PlaySession, check_same_spaces
    from worldlab.evaluation.playing.views import PlayedModel

    for one in loaded:
        if one.held_out is not None:
            raise ConfigError(
                one_line(f"{one.folder.name} has no environment to play in"),
                cause="it was trained on a data set alone",
                fix=f"worldlab dream {one.folder.path} draws its dreams",
            )
    models = [PlayedModel(one.folder.name, one.composed.model, one.composed.agent) for one in loaded]
    for other in models[1:]:
        check_same_spaces(models[0], other)
    names = [
        {
            "name": one.folder.name,
            "env": one.env_id,
            "step": one.step,
            "parts": {role: getattr(one.config, role).name for role in ("encoder", "dynamics", "decoder", "agent")},
        }
        for one in loaded
    ]
    return partial(PlaySession, loaded[0].make, models, seed), names


def _save(make: Callable[[], PlaySession], names: list[dict[str, Any]], args: Any) -> dict[str, Any]:
    """Let the agent play without a page, and write a film, a static page, or both."""
    from worldlab.cli.web.play.export import export_page
    from worldlab.cli.web.play.film import film_bytes
    from worldlab.runs.storage import atomic_write_bytes, make_folder

    session = make()
    try:
        session.drive("agent")
        while len(session.moments) <= args.steps and not session.now.ended:
            session.step()
        files = []
        if args.record is not None:
            path = make_folder(args.record.absolute().parent) / args.record.name
            atomic_write_bytes(path, film_bytes(session))
            files.append(str(path))
        if args.export is not None:
            files.append(str(export_page(session, names, args.export)))
    finally:
        session.close()
    return {"runs": [name["name"] for name in names], "steps": session.now.number, "files": files}
