"""worldlab check-env ID: checks whether an environment can be used for training."""

from __future__ import annotations

from worldlab.cli.common import Parser, add_shared, emit, prints_to_stderr
from worldlab.errors import EnvError, one_line
from worldlab.registry import open_registry


def run(argv: list[str]) -> int:
    parser = Parser("check-env", "Check that an environment can be used for training. Exit code 4 if it cannot.")
    parser.add_argument("id", metavar="ID", help='an environment, as in train --env: "CarRacing", "package.module:Id"')
    add_shared(parser)
    args = parser.read(argv)
    registry = open_registry(args.plugin)
    with prints_to_stderr():
        from worldlab.env.find import check_env

        result = check_env(args.id, registry)
    if args.json:
        emit(result, as_json=True)
    else:
        print(f"{result['env']}: {'can be trained on' if result['ok'] else 'cannot be trained on'}")
        for finding in result["findings"]:
            print(f"  {finding['status']:<5} {finding['check']}: {one_line(finding['detail'], 300)}")
    return 0 if result["ok"] else EnvError.exit_code
