"""A game against what evaluation, imagination and closed forms give for the same actions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_kit import Constant, Evaluated
from play_kit import IMAGE, VECTOR, Dot, RightWard, played, session

from worldlab.errors import ConfigError, EnvCrashedError, EnvError
from worldlab.evaluation.playing import session as session_module
from worldlab.evaluation.playing.codes import Codes
from worldlab.evaluation.playing.futures import drawn_steps
from worldlab.evaluation.playing.noise import Noise
from worldlab.evaluation.playing.session import check_same_spaces
from worldlab.evaluation.playing.views import PlayedModel
from worldlab.experience.acting import ActingAgent
from worldlab.specs import LatentSpec


def go(game, *presses: int):
    for pressed in presses:
        game.pressed = pressed
        game.step()
    return game


def test_keys_move_the_real_dot_and_the_rest_key_does_not():
    game = session()
    start = game.now.obs["image"]
    assert np.array_equal(go(game, 1).now.obs["image"], start)
    moved = go(game, 2, 2).now
    assert not np.array_equal(moved.obs["image"], start)
    assert [moment.reward for moment in game.moments][1:] == [game.env.x - 2, game.env.x - 1, game.env.x]
    assert moved.action.tolist() == [0, 0, 1] and moved.number == 3


def test_the_filtered_state_is_that_of_evaluation():
    game = session()
    game.drive("agent")
    acting = ActingAgent(game.models[0].model, RightWard(), Dot.action_space, torch.Generator())
    state = None
    for number in range(8):
        obs = {key: value[None] for key, value in game.now.obs.items()}
        action, state = acting.choose(obs, state, np.array([number == 0]), explore=False)
        view = game.now.views[0]
        assert torch.equal(view.carry.z, state["carry"].z)
        assert np.array_equal(game.step().action, action[0])


def test_the_dream_looks_at_five_frames_and_is_then_imagined_along_the_same_actions():
    game = go(session(), 2, 0, 2, 1)
    assert [moment.dreamt_for for moment in game.moments] == [0] * 5
    assert all(torch.equal(m.views[0].features, m.views[0].dream_features) for m in game.moments)
    start = game.now.views[0].carry
    go(game, 0, 2, 2)
    assert [moment.dreamt_for for moment in game.moments][5:] == [1, 2, 3]
    plan = torch.as_tensor(np.stack([moment.action for moment in game.moments[5:]]))[None]
    dream = game.models[0].model.imagine(start, plan, 3, torch.Generator().manual_seed(0))
    for step, moment in enumerate(game.moments[5:], 1):
        assert torch.equal(moment.views[0].dream_features, dream.features[:, step])
        assert moment.views[0].dreamt["reward"] == pytest.approx(float(dream.reward[0, step - 1]), abs=1e-6)
        assert moment.views[0].dreamt["cont"] == pytest.approx(float(dream.cont[0, step - 1]), rel=1e-5)
        assert moment.views[0].seen["value"] == 1.5


def test_the_dream_begins_anew_where_the_person_says():
    game = go(session(), *[2] * 8)
    game.begin_dream()
    assert game.now.dreamt_for == 0 and torch.equal(game.now.views[0].dream_features, game.now.views[0].features)
    start = game.now.views[0].carry
    go(game, 0)
    dream = game.models[0].model.imagine(start, torch.eye(3)[None, :1], 1, torch.Generator().manual_seed(0))
    assert torch.equal(game.now.views[0].dream_features, dream.features[:, 1])


def test_fixed_noise_repeats_a_game_and_other_noise_does_not():
    def dreamt(noise: Noise) -> torch.Tensor:
        game = session()
        game.set_noise(noise)
        return go(game, *[2] * 9).now.views[0].dream_features

    one = dreamt(Noise("fixed", 3))
    assert torch.equal(one, dreamt(Noise("fixed", 3)))
    assert not torch.equal(one, dreamt(Noise("fixed", 4)))
    assert not torch.equal(one, dreamt(Noise("fixed", 3, temperature=2.0)))
    assert not torch.equal(dreamt(Noise("fresh")), dreamt(Noise("fresh")))
    assert torch.equal(dreamt(Noise("none")), dreamt(Noise("none", 5, temperature=2.0)))


def test_a_change_of_temperature_keeps_the_random_numbers_of_the_dream_in_progress():
    game, other = go(session(), *[2] * 6), go(session(), *[2] * 6)
    other.set_noise(Noise("fixed", 0, 2.0))
    other.set_noise(Noise("fixed", 0, 1.0))
    assert torch.equal(go(game, 2).now.views[0].dream_features, go(other, 2).now.views[0].dream_features)


def test_a_dynamics_without_a_temperature_refuses_one(monkeypatch):
    game = session()

    def refuse(temperature: float) -> None:
        raise ConfigError("no temperature")

    monkeypatch.setattr(game.models[0].model, "check_temperature", refuse)
    assert not game.models[0].has_temperature
    with pytest.raises(ConfigError):
        game.set_noise(Noise(temperature=2.0))
    game.set_noise(Noise("fresh"))


def test_futures_have_the_closed_form_of_their_return():
    game = go(session(), 1)
    game.models[0].model.reward, game.models[0].model.cont = Constant(3.0), Constant(0.5)  # type: ignore[assignment]
    futures = game.branch(1, count=3, horizon=4)
    assert futures.returns == pytest.approx([3 * (1 + 0.5 + 0.25 + 0.125)] * 3)
    assert futures.features.shape[:2] == (3, 5) and futures.numbers["value"].shape == (3, 5)
    assert torch.equal(futures.features[0, 0], game.now.views[0].features[0])


def test_futures_differ_by_noise_and_temperature_and_fixed_noise_repeats_them():
    game = go(session(), 2, 0, 1)
    one = game.branch(2, count=4, horizon=5).features
    assert torch.equal(one, game.branch(2, count=4, horizon=5).features)
    assert len({tuple(row.flatten().tolist()) for row in one}) == 4
    game.set_noise(Noise("fixed", 0, 2.5))
    assert not torch.equal(one, game.branch(2, count=4, horizon=5).features)
    game.set_noise(Noise("none"))
    same = game.branch(2, count=4, horizon=5).features
    assert torch.allclose(same[0], same[3], atol=1e-6)


def test_futures_take_the_actions_that_were_wished():
    game = go(session(), 2, 0, 1)
    game.pressed = 0

    def taken(actions) -> list[list[int]]:
        return game.branch(1, count=2, horizon=3, actions=actions).actions.argmax(-1).tolist()

    assert taken("agent") == [[2, 2, 2]] * 2
    assert taken("hold") == [[0, 0, 0]] * 2
    assert taken("real") == [[0, 1, 1]] * 2  # what followed step 1; the last action goes on
    assert taken("each") == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert game.branch(1, horizon=3, actions="each").labels == ("action 0 (left)", "action 1", "action 2 (right)")


def test_branching_changes_nothing_in_the_game():
    game, other = go(session(), *[2] * 7), go(session(), *[2] * 7)
    game.branch(3, count=5, horizon=4)
    game.draw(game.now)
    assert torch.equal(go(game, 0).now.views[0].dream_features, go(other, 0).now.views[0].dream_features)


def test_a_plan_drives_and_then_the_person_does():
    game = session()
    game.drive("plan", np.eye(3, dtype=np.float32)[[2, 2]])
    game.pressed = 0
    for _ in range(3):
        game.step()
    assert [moment.action.argmax() for moment in game.moments[1:]] == [2, 2, 0] and game.driver == "person"


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_a_changed_code_changes_that_code_only_and_what_follows(kind):
    game = go(session(played(kind=kind)), 2)
    codes = game.codes(0)
    before = codes.read(game.now.views[0].carry.z)
    value = (before[1] + 1) % codes.spec.classes if kind == "categorical" else 2.0
    changed = game.changed(1, 0, {1: value})
    assert codes.read(changed.z) == [before[0], value, *before[2:]]
    assert codes.read(game.now.views[0].carry.z) == before
    one, two = (game.branch(1, count=1, horizon=2, codes=c).features for c in ({}, {1: value}))
    assert not torch.equal(one[:, 2], two[:, 2])
    game.dream_on(0, {1: value})
    assert torch.equal(game.now.views[0].dream_carry.z, changed.z) and game.now.dreamt_for == 0


def test_codes_that_do_not_exist_are_refused():
    codes = Codes(LatentSpec(6, "categorical", groups=2, classes=3))
    z = torch.eye(3)[[0, 2]].reshape(1, 6)
    assert codes.read(z) == [0, 2] and codes.read(codes.change(z, {0: 1})) == [1, 2]
    for wrong in ({2: 0}, {0: 3}, {0: 0.5}, {-1: 0}):
        with pytest.raises(ConfigError):
            codes.change(z, wrong)


def test_pictures_are_what_the_model_renders_and_the_gap_is_their_error():
    game = go(session(), *[2] * 7)
    drawing = game.draw(game.now)[0]
    assert drawing is not None and game.draw(game.now)[0] is drawing
    view = game.now.views[0]
    rendered = game.models[0].model.render(torch.cat([view.features, view.dream_features]))["image"].numpy()
    assert np.array_equal(drawing.reconstruction["image"], rendered[0])
    assert np.array_equal(drawing.dream["image"], rendered[1])
    difference = rendered[1].astype(float) - game.now.obs["image"]
    assert drawing.error == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-5)


def test_a_model_of_numbers_gets_the_picture_of_the_environment():
    game = go(session(played(obs=VECTOR), vector=True), 2)
    assert np.array_equal(game.now.rendering, game.env.render())
    drawing = game.draw(game.now)[0]
    assert drawing is not None and drawing.dream["vector"].shape == (2,)
    assert session().now.rendering is None  # there the observation is the picture


def test_a_model_that_draws_nothing_still_plays(monkeypatch):
    mute = played()
    monkeypatch.setattr(type(mute.model.decoder), "renders", False)
    game = go(session(mute), *[2] * 7)
    assert not mute.draws and game.draw(game.now) == [None]
    assert np.isfinite(game.branch(3).returns).all()


def test_two_models_see_the_same_and_need_the_same_spaces():
    game = go(session(played(), played("other", gain=3.0)), *[2] * 6)
    one, two = game.now.views
    assert not torch.equal(one.dream_features, two.dream_features)
    check_same_spaces(*game.models)
    with pytest.raises(EnvError, match="cannot be played side by side"):
        check_same_spaces(played(obs=IMAGE), played(obs=VECTOR))


def test_after_the_end_nothing_happens_until_the_next_episode():
    game = go(session(length=3), 2, 2, 2, 2)
    assert game.now.number == 3 and game.now.terminated and game.now.ended
    first = game.moments[0].obs["image"]
    game.reset()
    assert game.now.number == 0 and not game.now.ended
    starts = {game.reset().obs["image"].tobytes() for _ in range(8)} | {first.tobytes()}
    assert len(starts) > 2  # episodes differ
    again = session(length=3)
    assert np.array_equal(again.now.obs["image"], first)  # and repeat with the seed


def test_the_timeline_is_bounded(monkeypatch):
    monkeypatch.setattr(session_module, "TIMELINE", 4)
    game = go(session(), *[2] * 9)
    assert [moment.number for moment in game.moments] == [6, 7, 8, 9] and game.at(6).number == 6
    for wrong in (5, 10, -1):
        with pytest.raises(ConfigError, match="not on the timeline"):
            game.at(wrong)


def test_an_environment_that_fails_is_named_and_closed_whatever_it_does():
    game = session(fail_at=2)
    with pytest.raises(EnvCrashedError, match="failed in step: ValueError"):
        go(game, 1, 1)
    assert game.now.number == 1
    game.close()
    assert game.env.closed
    game.env.close = lambda: 1 / 0
    game.close()


def test_a_slow_decoder_draws_few_steps_of_its_futures():
    assert drawn_steps(20, 4, 0.001) == list(range(21))
    assert drawn_steps(20, 4, 0.1) == [0, 3, 6, 9, 12, 15, 18]
    assert drawn_steps(20, 4, 100.0) == [0, 11]


def test_an_agent_without_a_value_shows_none():
    assert set(session(PlayedModel("plain", played().model, Evaluated())).now.views[0].seen) == {"reward", "cont"}
