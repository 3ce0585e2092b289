import pytest
import torch
from model_kit import build_model, gen

from worldlab.distributions import symexp
from worldlab.model.preprocess import Preprocessor
from worldlab.settings import ModelSettings
from worldlab.specs import ArraySpec, ObsSpec

VECTOR = ObsSpec((("v", ArraySpec("vector", (3,))),))


def image_spec(height: int, width: int, channels: int = 3) -> ObsSpec:
    return ObsSpec((("image", ArraySpec("image", (channels, height, width))),))


def test_every_level_survives_the_round_trip_and_sits_where_the_contract_says():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    pre = Preprocessor(image_spec(16, 16, 1), "symlog")
    seen = pre({"image": levels})["image"]
    expected = torch.arange(256) / 255 - 0.5
    torch.testing.assert_close(seen.flatten(), expected)
    assert seen.min() == -0.5 and seen.max() == 0.5
    assert torch.equal(pre.restore("image", seen), levels)


@pytest.mark.parametrize("height, width", [(64, 64), (84, 84), (96, 96), (64, 96)])
def test_pictures_of_any_size_keep_their_pixels_in_place(height, width):
    pre = Preprocessor(image_spec(height, width), "symlog")
    raw = torch.randint(256, (2, 3, height, width, 3), dtype=torch.uint8, generator=gen())
    seen = pre({"image": raw})["image"]
    assert seen.shape == (2, 3, 3, height, width)
    assert seen[1, 2, 0, 5, 60].item() == pytest.approx(raw[1, 2, 5, 60, 0].item() / 255 - 0.5)
    assert torch.equal(pre.restore("image", seen), raw)


def test_pictures_out_of_range_are_clamped():
    pre = Preprocessor(image_spec(8, 8, 1), "symlog")
    value = torch.tensor([-2.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    assert pre.restore("image", value)[:, 0, 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize("scaling", ["symlog", "normalize", "none"])
def test_vectors_survive_the_round_trip(scaling):
    pre = Preprocessor(VECTOR, scaling)
    raw = torch.randn(50, 3, generator=gen()) * torch.tensor([1e-2, 1.0, 1e3]) + 5
    pre.fit("v", raw)
    torch.testing.assert_close(pre.restore("v", pre({"v": raw})["v"]), raw, rtol=1e-4, atol=1e-4)


def test_normalised_vectors_have_mean_0_and_std_1_and_constants_stay_finite():
    raw = torch.randn(500, 3, generator=gen()) * torch.tensor([3.0, 0.1, 0.0]) + torch.tensor([1.0, -9.0, 4.0])
    pre = Preprocessor(VECTOR, "normalize")
    pre.fit("v", raw)
    seen = symexp(pre({"v": raw})["v"])
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scaling", ["symlog", "normalize"])
def test_every_finite_observation_stays_finite(scaling):
    pre = Preprocessor(VECTOR, scaling)
    pre.fit("v", torch.randn(50, 3, generator=gen()) * 0.01)
    seen = pre({"v": torch.tensor([[3e38, -3e38, 0.0]])})["v"]
    assert torch.isfinite(seen).all() and (seen.abs() < 89).all()


def test_what_lies_far_outside_the_fitted_range_stays_within_a_few_units():
    pre = Preprocessor(VECTOR, "normalize")
    pre.fit("v", torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    far = pre({"v": torch.tensor([[2**0.5 * (torch.e**3 - 1), 0.0, 0.0]])})["v"]
    torch.testing.assert_close(far, torch.tensor([[3.0, 0.0, 0.0]]))


def test_symlog_compresses_both_signs():
    seen = Preprocessor(VECTOR, "symlog")({"v": torch.tensor([[0.0, torch.e - 1, 1 - torch.e]])})["v"]
    torch.testing.assert_close(seen, torch.tensor([[0.0, 1.0, -1.0]]))


def test_the_scaling_is_saved_with_the_model():
    model = build_model(ModelSettings(vector_scaling="normalize", units=8))
    raw = torch.randn(100, 3, generator=gen()) * 7 + 2
    model.preprocess.fit("vector", raw)
    other = build_model(ModelSettings(vector_scaling="normalize", units=8))
    assert not torch.equal(other.preprocess({"vector": raw})["vector"], model.preprocess({"vector": raw})["vector"])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.preprocess({"vector": raw})["vector"], model.preprocess({"vector": raw})["vector"])
