"""Nothing is imported but the public interface, and registering needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import worldlab_diffusion

PUBLIC = {f"worldlab.{name}" for name in ("interfaces", "nn", "distributions", "specs", "testing")} | {"worldlab"}
FOLDERS = (Path(worldlab_diffusion.__file__).parent, Path(__file__).parent)


def imports(path: Path):
    """(module, name) of every import of a file, wherever in it; name None for `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_only_public_names_of_worldlab_are_imported():
    found = {pair for folder in FOLDERS for path in folder.glob("*.py") for pair in imports(path)}
    ours = {(module, name) for module, name in found if module.partition(".")[0].startswith("worldlab")}
    assert {module for module, _ in ours if not module.startswith("worldlab_diffusion")} <= PUBLIC
    assert {module.partition(".")[0] for module, _ in ours} == {"worldlab", "worldlab_diffusion"}
    assert not [pair for pair in ours if pair[1] and pair[1].startswith("_")]


def test_registering_needs_no_torch():
    code = (
        "import sys\nfrom worldlab_diffusion import worldlab_register\n"
        "class Register:\n"
        "    def __getattr__(self, role):\n"
        "        return lambda name, target, **rest: print(role, name, rest['config'].__name__)\n"
        "worldlab_register(Register())\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "dynamics rectified-flow RectifiedFlowDynamicsConfig",
        "decoder rectified-flow RectifiedFlowDecoderConfig",
    ]
