"""worldlab.study.card: what a model card says of runs of every kind."""

from worldlab.config.resolve import resolve
from worldlab.registry import load_registry
from worldlab.runs.bundle import Bundle
from worldlab.runs.storage import FileDigest
from worldlab.study.card import write_card

REGISTRY = load_registry()
BUNDLE = Bundle({"config.toml": FileDigest(3, "c" * 64), "plugins/mine.py": FileDigest(1, "d" * 64)})


def card(result, run=None, bundle=BUNDLE, **flags):
    config = resolve(REGISTRY, presets=["debug"], flags={"env": {"id": "CartPole"}, **flags})
    return write_card("hf:me/x", config, REGISTRY, {"env": "CartPole-v1", **(run or {})}, result, bundle)


def test_the_interval_is_students_over_the_episodes_and_the_seed_is_one():
    found = card(
        {"returns": [10.0, 20.0, 30.0], "return_std": 10.0, "env_steps": 1234, "alarms": ["collapsed"]}, seed=4
    )
    # Student's t with 2 degrees of freedom: 4.3027 * 10 / sqrt(3) = 24.84.
    assert "| CartPole-v1 | one (4) | 20 [-4.841, 44.84] | 3 | 1,234 |" in found.body
    assert found.facts["return_mean"] == 20.0 and found.facts["return_std"] == 10.0
    assert "Alarms while it trained: collapsed." in found.body


def test_a_single_episode_has_no_interval_and_an_unfinished_run_no_score():
    assert "| 20 | 1 |" in card({"returns": [20.0], "return_std": None}).body
    found = card(None)
    assert "The run has not finished" in found.body and "return_mean" not in found.facts


def test_a_run_without_an_environment_shows_what_was_held_out():
    held_out = {"losses": {"dyn": 1.25, "decoder/image": 300.0}, "episodes": 2}
    run = {"env": "none", "data": {"source": "npz:/home/me/set", "sha256": {"training": "a" * 64}, "decisions": 50}}
    found = card({"env": "none", "held_out": held_out}, run)
    assert "Means over 2 held-out episodes" in found.body and "| decoder/image | 300 |" in found.body
    assert "Data: `npz:set`, 50 decisions, SHA-256 training `aaa" in found.body and "/home/me" not in found.body
    assert "on recorded data" in found.facts["title"] and "none" not in found.facts["tags"]


def test_code_and_missing_experience_are_named():
    body = card(None).body
    assert "worldlab eval hf:me/x --plugin mine.py" in body and "`plugins/mine.py`, which nothing imports" in body
    assert "The recorded experience is not included" in body
    whole = Bundle({**BUNDLE.files, "replay/seg-000-00000000.log": FileDigest(1, "e" * 64)})
    assert "not included" not in card(None, bundle=whole).body


def test_what_a_run_contains_cannot_leave_its_cell():
    part = {"name": "x` | <b>", "distribution": "a\nb", "version": "1"}
    body = card(None, {"components": {"encoder": part}, "versions": {"torch": "2 | <script>"}}).body
    assert (
        "| encoder | `x' \\| &lt;b>` | a b 1 |" in body
        and "| torch | 2 \\| &lt;script> |" in body
        and "<script>" not in body
    )
