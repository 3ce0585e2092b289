"""benchmarks/gallery.py: which cells it trains, and that the committed page is the one of the committed numbers."""

import json
import shlex
import sys
from collections import Counter
from pathlib import Path

import pytest

from worldlab.cli.flags import read_flags
from worldlab.config.resolve import resolve
from worldlab.registry import load_registry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gallery():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import gallery

        yield gallery
        sys.modules.pop("gallery"), sys.modules.pop("machine", None)


def test_five_pure_cells_and_ten_mixes_have_each_part_three_times(gallery):
    cells = gallery.cells()
    assert len(set(cells)) == 15 and [len(set(cell)) for cell in cells] == [1] * 5 + [3] * 10
    for role in range(3):
        assert Counter(cell[role] for cell in cells) == dict.fromkeys(gallery.FAMILIES, 3)


def test_every_command_resolves_to_its_cell(gallery):
    registry = load_registry()
    for cell in gallery.cells():
        flags = read_flags(shlex.split(gallery.command(cell))[2:])
        config = resolve(registry, presets=flags.presets, flags=flags.settings)
        assert (config.encoder.name, config.dynamics.name, config.decoder.name) == cell
        assert config.core.steps == gallery.updates(cell) and config.core.train.ratio == 1


def test_the_page_shows_the_committed_numbers_and_pictures(gallery, tmp_path, monkeypatch):
    results = json.loads(gallery.RESULTS.read_text())
    page = gallery.PAGE.read_text()
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "gallery.md")
    gallery.write_page(results)
    assert gallery.PAGE.read_text() == page
    shown = [f"{'-'.join(row['cell'])}{end}.webp" for row in results["cells"].values() for end in ("", "-dream")]
    assert [name for name in shown if not (gallery.PICTURES / name).is_file()] == []
    assert sum(path.stat().st_size for path in gallery.PICTURES.iterdir()) < 3_000_000
