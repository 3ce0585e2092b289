"""The virtual environments of the packages that worldlab is compared with, one each in benchmarks/.peers.

`python_of("torchrl")` makes the environment when it is missing. It takes a few minutes and about 1.5 GB.

    python benchmarks/peers.py            # make all of them
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"
REQUIREMENTS = {
    "torchrl": ("torch>=2.10,<2.14", "torchrl==0.14.1", "hydra-core", "omegaconf", "gymnasium>=1.4,<2"),
    "sheeprl": ("torch>=2.10,<2.14", "sheeprl==0.8.4"),
}


class PeerError(Exception):
    """A peer cannot be installed or does not start. The text is the reason that a result lists."""


def python_of(name: str) -> Path:
    """Return the interpreter of a peer's environment; make the environment first if it is missing or out of date.

    Raises: PeerError with the end of pip's output.
    """
    folder, wanted = FOLDER / name, "\n".join(REQUIREMENTS[name])
    python, made = folder / "bin" / "python", folder / "requirements"
    if made.is_file() and made.read_text() == wanted and python.exists():
        return python
    print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise PeerError(f"pip install failed: {' '.join(lines)[-500:]}")
    made.write_text(wanted)
    return python


def main() -> None:
    failed = False
    for name in REQUIREMENTS:
        try:
            print(name, python_of(name))
        except PeerError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
