"""worldlab watch [DIR]: shows the runs of a folder live, in a page of the browser; read only."""

from __future__ import annotations

from worldlab.cli.common import Parser, add_shared, at_least, emit
from worldlab.cli.runs import run_folder
from worldlab.runs.find import RUNS


def run(argv: list[str]) -> int:
    parser = Parser(
        "watch", "Watch the runs of a folder, or a comparison, in a page of your browser. Nothing is written."
    )
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default=str(RUNS), help=f"a folder of runs (default: {RUNS})"
    )
    parser.add_argument("--no-open", action="store_true", help="print the address and open no browser")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--port", type=at_least(0), default=0, metavar="N", help="the port (default: a free one)")
    add_shared(parser, plugin=False)
    args = parser.read(argv)
    folder = run_folder(args.folder)
    from worldlab.cli.web.gate import is_loopback
    from worldlab.cli.web.server import require_packages, serve

    require_packages("watch")
    from worldlab.cli.web.watch.page import watch_site

    def announce(address: str) -> None:
        if args.json:
            emit({"address": address, "folder": str(folder)}, as_json=True)
        else:
            who = "Only this machine can open it. " if is_loopback(args.host) else ""
            print(f"{address}\n{who}Ctrl-C stops it.", flush=True)

    serve(watch_site(folder), host=args.host, port=args.port, open_browser=not args.no_open, announce=announce)
    return 0
