"""`worldlab check-plugin` names the bug and a fix, and `worldlab plugins` lists the abilities of components."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_kit import add_dist, fresh, registers

from worldlab import cli
from worldlab.registry import load_registry
from worldlab.testing import checks_for

SOUND = '''
from typing import Literal

from torch import nn

from worldlab import Config, hookimpl
from worldlab.testing.reference import ReferenceEncoder


class SoundConfig(Config):
    kind: Literal["gaussian", "categorical"] = "gaussian"
    """Kind of latent."""
    latent_dim: int = 8
    """Width."""
    groups: int = 2
    """Variables."""
    classes: int = 4
    """Classes."""


class Sound(ReferenceEncoder):
    Config = SoundConfig


class BatchNormed(Sound):
    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.norm = nn.BatchNorm1d(self.trunk.size)

    def embed(self, obs):
        return self.norm(super().embed(obs))


class Leaving(Sound):
    def embed(self, obs):
        raise SystemExit(0)


class Fussy(Sound):
    def infer(self, embed, memory, generator):
        if len(embed) == 4:
            raise ValueError("not four")
        return super().infer(embed, memory, generator)


class Chatty(Sound):
    def embed(self, obs):
        print("here I am")
        return super().embed(obs)


@hookimpl
def worldlab_register(register):
    for name in {names}:
        register.encoder(name.lower(), f"{{__name__}}:{{name}}", config=SoundConfig, summary=f"The {{name}}.")
'''


def plugin_file(folder: Path, *names: str) -> str:
    path = folder / f"{fresh('checked')}.py"
    path.write_text(SOUND.replace("{names}", repr(names)).replace("{{", "{").replace("}}", "}"))
    return str(path)


def check(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["check-plugin", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_sound_file_passes_every_check_in_every_mode(tmp_path, capsys):
    code, out, _ = check(capsys, plugin_file(tmp_path, "Sound"), "--fast", "--json")
    report = json.loads(out)
    assert (code, report["ok"], report["counts"]["failed"]) == (0, True, 0)
    assert [(row["name"], row["mode"]) for row in report["components"]] == [
        ("sound", ""),
        ("sound", "kind=categorical"),
    ]
    quick = [one.id for one in checks_for("encoder") if not one.slow]
    for row in report["components"]:
        assert [one["check"] for one in row["checks"]] == quick
    status = {one["check"]: one["status"] for one in report["components"][0]["checks"]}
    assert status["E6"] == "skipped"  # E6 is for categorical latents, and this latent is gaussian
    assert {one["check"]: one["status"] for one in report["components"][1]["checks"]}["E6"] == "ok"


def test_a_failure_is_one_line_of_cause_and_one_of_fix(tmp_path, capsys):
    code, out, _ = check(capsys, plugin_file(tmp_path, "BatchNormed"), "-k", "e2")
    assert code == 1
    lines = [line.strip() for line in out.splitlines()]
    failed = lines.index("FAILED  E2   rows of a batch are independent")
    assert lines[failed + 1].startswith("cause: element ") and "influences element" in lines[failed + 1]
    assert lines[failed + 2].startswith("fix:   attend and normalise within a row")
    assert lines[-1].startswith("2 checks: 0 ok, 0 skipped, 2 failed;")


def test_whatever_a_component_does_is_reported(tmp_path, capsys):
    """A component that exits cannot make the command succeed; a component that prints cannot corrupt the JSON."""
    code, out, _ = check(capsys, plugin_file(tmp_path, "Leaving", "Chatty"), "-k", "P2", "--json")
    assert code == 0 and json.loads(out)["counts"]["ok"] == 4  # building them succeeds
    code, out, err = check(capsys, plugin_file(tmp_path, "Leaving", "Chatty"), "-k", "E3", "--json")
    report = json.loads(out)
    found = {row["name"]: row["checks"][0] for row in report["components"] if not row["mode"]}
    assert code == 1 and "here I am" in err
    assert found["leaving"]["status"] == "failed" and found["leaving"]["cause"].startswith("raised SystemExit: 0 (at ")
    assert found["chatty"]["status"] == "ok"


def test_components_are_named_in_four_ways(tmp_path, capsys, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    add_dist(site, "Worldlab_Mine", Path(plugin_file(tmp_path, "Sound")).read_text())
    monkeypatch.syspath_prepend(str(site))
    for what in ("sound", "encoder:sound", "worldlab-mine", plugin_file(tmp_path, "Chatty")):
        code, out, _ = check(capsys, what, "-k", "P1", "--json")
        assert code == 0, what
        assert {row["role"] for row in json.loads(out)["components"]} == {"encoder"}
    code, out, _ = check(capsys, "vae", "-k", "P1", "--json")
    assert [row["role"] for row in json.loads(out)["components"] if not row["mode"]] == [
        "encoder",
        "dynamics",
        "decoder",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "first"),
    [
        (["vea"], 3, "no component or plugin named 'vea'. Did you mean 'vae'?"),
        (["encoder:vea"], 3, "no encoder named 'vea'. Did you mean 'vae'?"),
        (["nope.py"], 3, "plugin file:nope.py is not a file"),
        (["vae", "-k", "E99"], 2, "check-plugin: no check matches. Did you mean 'E9'?"),
        (["vae", "--level", "0.0.1"], 2, "check-plugin: no check matches."),
        (["vae", "--level", "new"], 2, "worldlab check-plugin: argument --level: 'new' must be a version such as 0.1"),
        ([], 2, "worldlab check-plugin: the following arguments are required: WHAT"),
    ],
)
def test_mistakes(capsys, tmp_path, monkeypatch, arguments, code, first):
    monkeypatch.chdir(tmp_path)
    got, out, err = check(capsys, *arguments)
    assert got == code and out == ""
    assert err.splitlines()[0].startswith(first) and "fix: " in err


def test_a_broken_plugin_is_exit_3_with_its_reason(tmp_path, capsys, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    add_dist(site, "worldlab-bad", "import no_such_thing\n")
    add_dist(site, "worldlab-unloadable", registers(("encoder", "unloadable")))
    add_dist(
        site, "worldlab-required", registers(("encoder", "required"), settings="\n    must: int\n    '''No default.'''")
    )
    monkeypatch.syspath_prepend(str(site))
    code, _, err = check(capsys, "worldlab-bad")
    assert code == 3 and err.startswith("plugin worldlab-bad 1.0 cannot be imported: No module named 'no_such_thing'")
    code, _, err = check(capsys, "unloadable")
    assert code == 3 and err.startswith(
        "plugin worldlab-unloadable 1.0 (encoder 'unloadable') does not implement Encoder"
    )
    code, _, err = check(capsys, "required")
    assert code == 3 and err.startswith(
        "plugin worldlab-required 1.0 (encoder 'required'): its default settings are not"
    )
    assert "pydantic" not in err and "input_value" not in err
    empty = tmp_path / "empty.py"
    empty.write_text("def worldlab_register(register): ...\n")
    code, _, err = check(capsys, str(empty))
    assert code == 3 and err.startswith("plugin file empty.py registers no component")


def test_a_broken_component_does_not_hide_the_others(tmp_path, capsys):
    path = Path(plugin_file(tmp_path, "Lost", "Sound"))  # registers Lost, but does not define it
    code, out, err = check(capsys, str(path), "-k", "P1", "--json")
    report = json.loads(out)
    assert code == 3 and not report["ok"] and report["counts"] == {"ok": 2, "skipped": 0, "failed": 0}
    notes = {row["name"]: row["note"] for row in report["components"] if not row["mode"]}
    assert notes["lost"].startswith(f"BROKEN, plugin file:{path.name}") and notes["sound"] == ""
    assert err.splitlines()[0].startswith(f"plugin file:{path.name} (encoder 'lost') cannot be imported: ")


def test_a_broken_plugin_is_described_once(tmp_path, capsys):
    code, out, err = check(capsys, plugin_file(tmp_path, "Lost"))
    assert code == 3 and out == f"encoder lost  [{out.partition('[')[2].partition(']')[0]}]: BROKEN\n"
    assert err.count("has no attribute 'Lost'") == 1


def test_the_dry_run_comes_first_and_ends_the_checks_if_it_fails(tmp_path, capsys):
    code, out, _ = check(capsys, plugin_file(tmp_path, "Leaving"), "--fast")
    lines = out.splitlines()
    assert code == 1 and lines[1].startswith("  FAILED  P0   one step and one pass of its losses work")
    assert "cause: Leaving.embed raised SystemExit: 0; at" in lines[2] and "contract: embed: " in lines[3]
    assert "python -m pydoc worldlab.interfaces.Encoder.embed" in lines[4]
    quick = [one for one in checks_for("encoder") if not one.slow]
    assert lines[-1].startswith(f"{2 * len(quick)} checks: 0 ok, {2 * (len(quick) - 1)} skipped, 2 failed")
    assert lines[5] == "  skipped E1   " + quick[1].title + " (see P0)"


def test_failures_with_one_cause_are_folded(tmp_path, capsys):
    path = plugin_file(tmp_path, "Fussy")
    code, out, _ = check(capsys, path, "--fast", "--json")
    failed = [one for one in json.loads(out)["components"][0]["checks"] if one["status"] == "failed"]
    assert code == 1 and len(failed) >= 4 and len({one["cause"] for one in failed}) == 1
    code, out, _ = check(capsys, path, "--fast")
    first, *others = [one["check"] for one in failed]
    lines = out.splitlines()
    assert out.count("  FAILED  ") == 4 and out.count("ValueError: not four") == 2  # in each of the two modes
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    assert f"  FAILED  for the cause of {first} also {', '.join(others[:3])}{more}" in lines


@pytest.mark.parametrize("what", ["random", "branch", "launcher:local"])
def test_agents_environments_and_launchers_are_checked(capsys, what):
    code, out, _ = check(capsys, what)
    assert code == 0 and out.count("  ok  ") >= 5 and ", 0 failed;" in out


def test_verbose_says_what_a_check_built(tmp_path, capsys):
    path = plugin_file(tmp_path, "BatchNormed")
    code, out, _ = check(capsys, path, "-k", "E2", "--verbose")
    assert code == 1
    assert "builds obs image [3, 16, 16], vector [3]; continuous action 2; gaussian latent 8; memory 16" in out
    assert "encoder BatchNormed(kind='gaussian', latent_dim=8" in out and "decoder ReferenceDecoder()" in out
    code, out, _ = check(capsys, path, "-k", "E2")
    assert "builds obs" not in out
    assert out.splitlines()[-2] == f"what a check saw: worldlab check-plugin {path} -k E2 --verbose"


# ---- worldlab plugins ----


def test_abilities_come_from_a_built_component(capsys):
    assert cli.main(["plugins", "--verbose", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["components"]
    abilities = {(row["role"], row["name"]): row["abilities"] for row in rows}
    assert abilities["encoder", "vae"] == {"posterior_kind": "analytic", "uses_memory": True}
    assert abilities["dynamics", "autoregressive"] == {
        "prior_kind": "log_prob",
        "reparameterised": True,
        "parallel": True,
    }
    assert abilities["dynamics", "vae"]["parallel"] is False
    # The class declares "undefined"; a decoder built for images has a likelihood.
    assert abilities["decoder", "flow"] == {"score_kind": "log_density", "likelihood": "bound", "renders": True}
    assert abilities["agent", "random"] == {}


def test_a_component_that_cannot_be_loaded_is_a_broken_row(tmp_path, capsys, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    module = fresh("heavy")
    (site / f"{module}.py").write_text("import sys\nsys.exit(4)\n")
    add_dist(site, "worldlab-lazy", registers(("encoder", "lazy")).replace("collections:OrderedDict", f"{module}:X"))
    monkeypatch.syspath_prepend(str(site))
    assert cli.main(["plugins", "--role", "encoder", "--json"]) == 0
    assert "lazy" in [row["name"] for row in json.loads(capsys.readouterr().out)["components"]]  # nothing was imported
    assert cli.main(["plugins", "--role", "encoder", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert "broken  worldlab-lazy 1.0: encoder 'lazy' cannot be imported: it called sys.exit(4)" in out
    assert out.index("worldlab_vae.encoder:VAEEncoder") < out.index("broken  worldlab-lazy")
    assert cli.main(["plugins", "show", "encoder", "lazy", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["status"] == "broken" and "sys.exit(4)" in shown["reason"]
    assert shown["settings"][0]["path"] == "width"


def test_settings_are_shown_with_their_bounds(tmp_path, capsys, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    settings = """
    share: float = field(0.5, ge=0, lt=1)
    '''A share.'''
    mode: Literal["a", "b"] | None = None
    '''Which.'''"""
    source = "from typing import Literal\n" + registers(("agent", "ruled"), settings=settings)
    add_dist(site, "worldlab-ruled", source)
    monkeypatch.syspath_prepend(str(site))
    assert cli.main(["plugins", "show", "agent", "ruled", "--json"]) == 0
    shown = {item["path"]: item for item in json.loads(capsys.readouterr().out)["settings"]}
    assert (shown["share"]["bounds"], shown["share"]["rule"]) == ({"ge": 0, "lt": 1}, ">= 0 and < 1")
    assert (shown["mode"]["choices"], shown["mode"]["type"]) == (["a", "b"], "a|b|none")
    assert shown["width"]["bounds"] == {"gt": 0} and shown["kind"]["choices"] == []
    assert cli.main(["plugins", "show", "agent", "ruled"]) == 0
    assert "  share = 0.5  (FLOAT >= 0 and < 1)  A share." in capsys.readouterr().out


def test_the_plain_list_imports_no_torch():
    code = "import sys; from worldlab.cli import main; main(['plugins']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert len(done.stdout.splitlines()) > len(load_registry().registrations())
