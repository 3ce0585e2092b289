"""Names of models contain the parts that vary, and nothing else."""

from __future__ import annotations

import pytest

from worldlab.errors import ConfigError
from worldlab.study.compare.naming import make_title, name_models, slug, varying_roles


def mix(encoder="vae", dynamics="vae", decoder="vae", agent="dreamer"):
    return {"encoder": encoder, "dynamics": dynamics, "decoder": decoder, "agent": agent}


def named(*models, own=None):
    return name_models(models, own or [""] * len(models))


def test_one_axis_gives_the_bare_name():
    assert named(mix(), mix("cpc")) == [("vae", "vae"), ("cpc", "cpc")]
    assert named(mix(agent="cem"), mix(agent="ppo")) == [("cem", "cem"), ("ppo", "ppo")]


def test_several_axes_give_names_of_all_varying_roles():
    models = mix(), mix("cpc"), mix("vae", "flow")
    assert varying_roles(models) == ["encoder", "dynamics"]
    assert named(*models) == [
        ("vae-vae", "vae encoder, vae dynamics"),
        ("cpc-vae", "cpc encoder, vae dynamics"),
        ("vae-flow", "vae encoder, flow dynamics"),
    ]


def test_models_of_one_family_are_named_by_it():
    pure = [mix(f, f, f) for f in ("vae", "gan")]
    assert named(*pure) == [("vae", "vae"), ("gan", "gan")]
    assert named(mix("vae", "cpc", "cpc")) == [("vae-cpc-cpc", "vae encoder, cpc dynamics, cpc decoder")]
    assert named(mix("gan", "gan", "gan", "cem")) == [("gan", "gan")]


def test_a_users_own_name_is_the_label_and_makes_a_safe_key():
    assert named(mix(), mix(), own=["the wide one", "b/../c"]) == [
        ("the-wide-one", "the wide one"),
        ("b-..-c", "b/../c"),
    ]


def test_equal_names_are_an_error():
    with pytest.raises(ConfigError, match="two models would have the same name 'vae'"):
        named(mix(), mix("cpc"), own=["", "VAE"])


def test_slugs_are_short_and_safe():
    assert slug("worldlab/Branch-v0") == "worldlab-Branch-v0" and slug("é/") == "x" and len(slug("a" * 99)) == 60


def test_titles_count_models_and_seeds():
    assert make_title([mix(), mix("cpc")], ["A", "B"], 5) == "2 encoders on A, B; 5 seeds"
    assert make_title([mix(), mix(dynamics="cpc")], ["A"], 1) == "2 dynamics on A; 1 seed"
    assert make_title([mix(), mix("cpc"), mix("vae", "cpc")], ["A"], 2) == "3 models on A; 2 seeds"
    assert make_title([mix()], ["A"], 2) == "one model on A; 2 seeds"
