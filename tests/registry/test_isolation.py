"""A distribution that is broken in whatever way costs only itself: its metadata, its time, its exceptions."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from plugin_kit import GOOD, add_builtins, add_dist, registers

from worldlab.errors import PluginError
from worldlab.registry import discovery, guard, load_registry
from worldlab.registry.side_effects import restore_globals


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    add_builtins(folder)
    add_dist(folder, "worldlab-zz", GOOD)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("WORLDLAB_PLUGINS", raising=False)
    return folder


def only_broken(registry):
    assert registry.get("encoder", "good") and registry.get("encoder", "vae")
    (broken,) = registry.broken
    return broken


# ---- metadata ----

METADATA = {
    "METADATA is not UTF-8": (
        "METADATA",
        b"Metadata-Version: 2.1\nName: worldlab-b\xff\nVersion: 1.0\n",
        "METADATA: Unicode",
    ),
    "METADATA has no name": ("METADATA", b"Metadata-Version: 2.1\n", "METADATA: "),
    "entry points are not UTF-8": ("entry_points.txt", b"[worldlab]\nx = \xff\n", "entry_points.txt: Unicode"),
    "entry points are no list": ("entry_points.txt", b"[worldlab]\nnonsense\n", "entry_points.txt: "),
}


@pytest.mark.parametrize("case", METADATA)
def test_unreadable_metadata_costs_one_plugin(site, case):
    name, data, reason = METADATA[case]
    add_dist(site, "worldlab-bad", GOOD.replace("good", "bad"), version="0.3")
    (site / "worldlab_bad-0.3.dist-info" / name).write_bytes(data)
    broken = only_broken(load_registry())
    assert (broken.distribution, broken.version) == ("worldlab-bad", "0.3")
    assert f"has metadata that cannot be read: {reason}" in broken.reason
    assert broken.where.endswith(f"worldlab_bad-0.3.dist-info/{name}") and "--force-reinstall" in broken.fix


def test_unreadable_metadata_gives_nobody_the_rights_of_worldlab(site, monkeypatch):
    """With WORLDLAB_PLUGINS=off only our own plugins load, and this one claims to be ours."""
    add_dist(site, "worldlab", GOOD.replace("good", "bad"), version="9.9", entry="evil")
    (site / "worldlab-9.9.dist-info" / "METADATA").write_bytes(b"\xff")
    monkeypatch.setenv("WORLDLAB_PLUGINS", "off")
    assert "bad" not in load_registry().names("encoder")


def test_missing_metadata_of_strangers_is_no_matter(site):
    for name in ("torch_like-1.0.dist-info", "empty.egg-info", ".dist-info"):
        (site / name).mkdir()
    assert load_registry().broken == ()


def test_the_first_of_two_versions_on_the_path_counts(site, monkeypatch):
    other = site.parent / "other"
    add_dist(other, "worldlab-zz", GOOD.replace("good", "older"), version="0.9")
    monkeypatch.syspath_prepend(str(other))
    registry = load_registry()
    assert "older" in registry.names("encoder") and "good" not in registry.names("encoder")


# ---- time ----


def test_a_registration_without_end_is_cut_short(site, monkeypatch):
    monkeypatch.setattr(guard, "LIMIT", 0.3)
    add_dist(site, "worldlab-slow", "import time\nwhile True:\n    time.sleep(0.01)\n")
    start = time.perf_counter()
    broken = only_broken(load_registry())
    assert broken.distribution == "worldlab-slow" and time.perf_counter() - start < 10
    assert broken.reason == "takes longer than 0.3 s to register"


def test_a_plugin_that_catches_the_interruption_is_interrupted_again(site, monkeypatch):
    monkeypatch.setattr(guard, "LIMIT", 0.2)
    monkeypatch.setattr(guard, "AGAIN", 0.1)
    source = (
        "import time\nfor _ in range(3):\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass\n"
    )
    add_dist(site, "worldlab-stubborn", source + "time.sleep(60)\n")
    assert "takes longer than 0.2 s" in only_broken(load_registry()).reason


def test_ctrl_c_ends_the_command_but_a_keyboard_interrupt_of_a_plugin_does_not(site):
    add_dist(site, "worldlab-b1", "raise KeyboardInterrupt\n")
    assert only_broken(load_registry()).reason == "cannot be imported: KeyboardInterrupt"
    source = "import signal, time\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept Exception:\n    pass\n"
    add_dist(site, "worldlab-a1", source)  # stands for a user who presses Ctrl-C during this import
    with pytest.raises(KeyboardInterrupt):
        load_registry()


def test_ctrl_c_between_two_plugins_ends_the_command_and_breaks_no_plugin(site, monkeypatch):
    """Ctrl-C in worldlab's own work: it once made vae a broken plugin, and the command ended with "no encoder 'vae'"."""

    def interrupted():
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(discovery, "restore_globals", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_registry()


def test_signals_and_timers_are_as_before(site):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)]
    previous = signal.signal(signal.SIGALRM, print)
    signal.setitimer(signal.ITIMER_REAL, 1000, 7)
    try:
        load_registry()
        assert signal.getsignal(signal.SIGALRM) is print
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 900 < left <= 1000 and interval == 7
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)] == handlers


def test_a_handler_that_a_plugin_sets_is_still_reported(site):
    add_dist(
        site,
        "worldlab-handler",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + GOOD.replace("good", "x"),
    )
    before = signal.getsignal(signal.SIGINT)
    assert "changes signal handlers" in only_broken(load_registry()).reason
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_can_load_plugins_too(site):
    found = []
    thread = threading.Thread(target=lambda: found.append(load_registry().names("encoder")))
    thread.start()
    thread.join(60)
    assert found == [("cpc", "good", "vae")]


def test_global_state_is_restored_after_an_interruption(monkeypatch):
    import random

    random.seed(3)
    before = random.getstate()
    monkeypatch.setattr(guard, "LIMIT", 0.1)
    with pytest.raises(guard.Fault), restore_globals(), guard.guard_registration():
        random.seed(4)
        time.sleep(5)
    assert random.getstate() == before


# ---- which plugin would have had the name ----


def cause_of(role, name):
    with pytest.raises(PluginError) as caught:
        load_registry().get(role, name)
    return str(caught.value.cause)


def test_a_missing_name_is_traced_to_the_plugin_that_would_have_brought_it(site):
    for number in range(5):
        add_dist(site, f"worldlab-a{number}", "import no_such_thing\n")
    add_dist(site, "worldlab-hidden", "import no_such_module\n" + registers(("encoder", "resnet")), version="2.0")
    add_dist(site, "worldlab-efficientnet", "1 / 0\n")
    assert cause_of("encoder", "resnet").startswith(
        "it may belong to a broken plugin: worldlab-hidden 2.0 cannot be imported: No module named 'no_such_module'"
    )
    assert "worldlab-efficientnet 1.0 cannot be imported: ZeroDivisionError" in cause_of("encoder", "efficient-net")
    assert "(6 more are broken)" in cause_of("encoder", "efficient-net")


def test_no_plugin_is_blamed_without_a_reason(site):
    for name in ("aaa", "bbb", "ccc"):
        add_dist(site, f"worldlab-{name}", "1 / 0\n")
    assert cause_of("encoder", "transporter") == (
        "it may belong to one of 3 broken plugins: worldlab-aaa 1.0, worldlab-bbb 1.0, worldlab-ccc 1.0"
    )
