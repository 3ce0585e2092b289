"""Tests of the registry: it survives every broken plugin and names the faulty one."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from plugin_kit import BROKEN, GOOD, TARGET, add_builtins, add_dist, fresh, registers

from worldlab.errors import PluginError
from worldlab.registry import load_registry


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    add_builtins(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("WORLDLAB_PLUGINS", raising=False)
    return folder


def first_line(error) -> str:
    line = str(error.value).splitlines()[0]
    assert len(line) <= 100
    return line


def test_a_good_plugin_is_found_by_role_and_name(site):
    add_dist(site, "worldlab-good", GOOD, version="2.1")
    registry = load_registry()
    entry = registry.get("encoder", "good")
    assert (entry.distribution, entry.version, entry.target, entry.api) == ("worldlab-good", "2.1", TARGET, 1)
    assert entry.config is not None and entry.config().model_dump() == {"width": 32, "kind": "plain"}
    assert registry.names("encoder") == ("cpc", "good", "vae")
    assert [(e.role, e.name) for e in registry.registrations("dynamics")] == [("dynamics", "cpc"), ("dynamics", "vae")]
    assert registry.broken == ()
    assert registry.plugins_record() == [
        {"distribution": "worldlab", "version": "0.1.0", "sha256": None},
        {"distribution": "worldlab-good", "version": "2.1", "sha256": None},
    ]
    from collections import OrderedDict

    assert entry.load() is OrderedDict


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_recorded_and_affects_no_other(site, case):
    source, reason, line = BROKEN[case]
    path = add_dist(site, "worldlab-bad", source, version="0.3")
    add_dist(site, "worldlab-zz", GOOD)
    random.seed(7)
    np.random.seed(7)
    registry = load_registry()
    drawn = (random.random(), np.random.rand())
    random.seed(7)
    np.random.seed(7)
    assert drawn == (random.random(), np.random.rand())
    assert registry.get("encoder", "good").distribution == "worldlab-zz"
    (broken,) = registry.broken
    assert (broken.name, broken.distribution, broken.version) == ("bad", "worldlab-bad", "0.3")
    assert re.search(reason, broken.reason), broken.reason
    if line is not None:
        assert broken.where == f"{path}:{line}"
    with pytest.raises(PluginError) as error:
        registry.get("encoder", "bad")
    assert first_line(error).startswith("plugin worldlab-bad 0.3 (encoder 'bad') ")
    assert error.value.fix and error.value.cause and broken.where in error.value.cause


@pytest.mark.parametrize("rival", ["aaa", "zzz"])
def test_the_later_of_two_plugins_with_a_name_is_broken(site, rival):
    add_dist(site, "mmm", registers(("encoder", "x"), ("agent", "only-mine")))
    add_dist(site, rival, registers(("encoder", "x")))
    registry = load_registry()
    winner, loser = sorted(["mmm", rival])
    assert registry.get("encoder", "x").distribution == winner
    (broken,) = registry.broken
    assert broken.distribution == loser
    assert broken.reason == f"registers encoder 'x', which {winner} 1.0 already registers"
    assert ("only-mine" in registry.names("agent")) == (winner == "mmm")


def test_launchers_are_a_role_and_come_last(site):
    add_dist(site, "worldlab-farm", registers(("launcher", "farm"), ("env", "field")))
    registry = load_registry()
    assert registry.get("launcher", "farm").target == TARGET
    assert [entry.role for entry in registry.named("worldlab-farm")] == ["env", "launcher"]
    with pytest.raises(PluginError, match=r"no launcher named 'fram'\. Did you mean 'farm'"):
        registry.get("launcher", "fram")


def test_no_plugin_can_shadow_a_builtin(site):
    add_dist(site, "a-thief", registers(("encoder", "vae")))
    registry = load_registry()
    assert registry.get("encoder", "vae").distribution == "worldlab"
    assert [b.distribution for b in registry.broken] == ["a-thief"]


def test_an_unknown_name_gets_a_suggestion_and_the_list(site):
    with pytest.raises(PluginError) as error:
        load_registry().get("encoder", "vea")
    assert first_line(error) == "no encoder named 'vea'. Did you mean 'vae'?"
    assert error.value.cause == "installed: cpc, vae"
    with pytest.raises(PluginError) as error:
        load_registry().get("encodr", "vae")
    assert first_line(error).startswith("no role named 'encodr'. Did you mean 'encoder'?")
    add_dist(site, "worldlab-bad", "import no_such_thing")
    with pytest.raises(PluginError) as error:
        load_registry().get("encoder", "resnet")
    assert first_line(error) == "no encoder named 'resnet'."
    assert "worldlab-bad 1.0 cannot be imported: No module named 'no_such_thing'" in str(error.value)


@pytest.mark.parametrize(
    ("target", "reason", "fix"),
    [
        ("no_such_thing.model:X", "cannot be imported: No module named 'no_such_thing'", "correct the target"),
        (
            "collections:Nope",
            "cannot be imported: AttributeError: module 'collections' has no attribute",
            "pip install -U",
        ),
    ],
)
def test_a_target_that_cannot_be_loaded_is_the_plugins_fault(site, target, reason, fix):
    add_dist(site, "worldlab-bad", GOOD.replace(TARGET, target))
    with pytest.raises(PluginError) as error:
        load_registry().get("encoder", "good").load()
    assert first_line(error).startswith(f"plugin worldlab-bad 1.0 (encoder 'good') {reason}"[:97])
    assert fix in error.value.fix


def test_loading_a_target_leaves_the_random_state_alone(site):
    module = fresh("seeder")
    (site / f"{module}.py").write_text("import random\nrandom.seed(1)\nThing = 5\n")
    add_dist(site, "worldlab-seeder", GOOD.replace(TARGET, f"{module}:Thing"))
    entry = load_registry().get("encoder", "good")
    before = random.getstate()
    assert entry.load() == 5
    assert random.getstate() == before


def test_a_file_is_a_plugin_here_and_in_another_process(site, tmp_path):
    path = tmp_path / "my-plugin.py"
    path.write_text(GOOD.replace(f'"{TARGET}"', 'f"{__name__}:Options"'))
    registry = load_registry([path])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert registry.plugins_record()[-1] == {
        "distribution": "file:my-plugin.py",
        "version": f"sha256:{digest[:12]}",
        "sha256": digest,
    }
    assert registry.plugin_files == (path,)
    entry = registry.get("encoder", "good")
    assert entry.target == "worldlab_file_my_plugin:Options" and entry.load() is entry.config
    assert load_registry([path, path]).get("encoder", "good").config is entry.config
    assert not list(tmp_path.glob("__pycache__"))
    code = (
        "import sys; from pathlib import Path; from worldlab.registry import load_registry\n"
        "entry = load_registry([Path(sys.argv[1])]).get('encoder', 'good')\n"
        "print(entry.load().__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "Options False\n"
    path.write_text(path.read_text().replace('"good"', '"better"'))
    assert "better" in load_registry([path]).names("encoder")


def test_a_broken_plugin_file_is_an_error(site, tmp_path):
    missing = load_registry([tmp_path / "nope.py"])
    with pytest.raises(PluginError, match=r"plugin file:nope\.py is not a file"):
        missing.check_files()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(registers(("agent", folder)))
    clash = load_registry([tmp_path / "a" / "same.py", tmp_path / "b" / "same.py"])
    assert clash.names("agent").count("a") == 1
    with pytest.raises(PluginError, match="has the same file name as"):
        clash.check_files()


def test_plugins_off_keeps_the_builtins(site, monkeypatch):
    add_dist(site, "worldlab-good", GOOD)
    monkeypatch.setenv("WORLDLAB_PLUGINS", "off")
    assert load_registry().names("encoder") == ("cpc", "vae")


def test_a_forgotten_marker_is_no_fault(site):
    add_dist(site, "worldlab-good", GOOD.replace("@hookimpl", ""))
    assert "good" in load_registry().names("encoder")


def test_nine_of_ten_misspelt_hooks_are_recognised(tmp_path):
    right = "worldlab_register"
    typos = [right[:i] + right[i + 1 :] for i in range(len(right))]  # a letter lost
    typos += [right[:i] + right[i + 1] + right[i] + right[i + 2 :] for i in range(len(right) - 1)]  # two swapped
    typos += [right[:i] + "x" + right[i + 1 :] for i in range(len(right))]  # one wrong
    typos = sorted(set(typos) - {right})
    files = []
    for typo in typos:
        files.append(tmp_path / f"{fresh('typo')}.py")
        files[-1].write_text(f"def {typo}(register): ...\n")
    broken = load_registry(files).broken
    mine = [b for b in broken if b.path in files]
    hinted = [b for b in mine if "Did you mean worldlab_register?" in b.reason]
    assert len(mine) == len(typos) >= 45 and len(hinted) >= 0.9 * len(typos)


def test_twelve_broken_and_one_good_still_work_without_torch(site):
    for number, (source, _, _) in enumerate(list(BROKEN.values())[:12]):
        add_dist(site, f"worldlab-bad{number}", source)
    add_dist(site, "worldlab-good", GOOD)
    command = [sys.executable, "-m", "worldlab", "plugins", "--json"]
    env = {"PYTHONPATH": f"{site}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    listed = json.loads(done.stdout)
    assert len(listed["broken"]) == 12 and all(row["reason"] and row["where"] for row in listed["broken"])
    assert "good" in [row["name"] for row in listed["components"]]


# ---- advice ----


def broken_fix(site: Path, name: str) -> tuple[str, str]:
    (found,) = [plugin for plugin in load_registry().broken if plugin.distribution == name]
    error = found.error()
    return error.message, str(error.fix)


def test_a_wrong_entry_point_is_the_plugins_own_fault_and_nothing_to_install(site):
    add_dist(site, "worldlab-pk", GOOD)
    (site / "worldlab_pk-1.0.dist-info" / "entry_points.txt").write_text("[worldlab]\npk = worldlab_pkk.sub\n")
    (found,) = load_registry().broken
    error = found.error()
    assert error.message == "plugin worldlab-pk 1.0 has no module 'worldlab_pkk', which its entry point 'pk' names"
    assert str(error.cause).endswith("worldlab_pk-1.0.dist-info/entry_points.txt")
    assert "correct [project.entry-points.worldlab]" in str(error.fix) and "pip install worldlab_pkk" not in str(error)


def test_only_packages_that_a_plugin_requires_are_advised(site):
    add_dist(site, "worldlab-a", "import wltest_lib.sub\n")
    assert "pip install" not in broken_fix(site, "worldlab-a")[1]
    metadata = site / "worldlab_a-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: wltest-lib>=1.0; python_version > '3'\n")
    assert broken_fix(site, "worldlab-a")[1] == "pip install wltest_lib"


def test_a_clash_advises_only_what_can_be_removed(site, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace('"good"', '"vae"'))
    with pytest.raises(PluginError) as caught:
        load_registry([file]).check_files()
    error = caught.value
    assert error.message == "plugin file:mine.py registers encoder 'vae', which worldlab 0.1.0 already registers"
    assert str(error.cause).startswith(f"at {file}:") and str(error).count(str(file)) == 2
    assert error.fix == f"give the encoder another name in {file}"
    for name in ("worldlab-a", "worldlab-b"):
        add_dist(site, name, GOOD)
    assert broken_fix(site, "worldlab-b")[1] == (
        "give the encoder another name, or pip uninstall worldlab-b or worldlab-a"
    )
