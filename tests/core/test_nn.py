import pytest
import torch
from model_kit import gen, weights

from worldlab import nn
from worldlab.errors import PluginError
from worldlab.model.noise import noise_obs
from worldlab.nn import (
    ChannelNorm,
    ConvTrunk,
    DeconvTrunk,
    GRUCell,
    ObsHead,
    ObsTrunk,
    RecurrentMemory,
    RunningMoments,
    check_shape,
    ema_update,
    frozen,
    mlp,
    random_shift,
)
from worldlab.specs import ArraySpec, ObsSpec
from worldlab.testing.toys import OBS


def test_mlp_sizes_and_a_zero_output():
    net = mlp(3, 8, 2, 5, zero=True)
    assert not net(torch.randn(4, 3)).any()
    assert mlp(3, 8, 1)(torch.randn(4, 3)).shape == (4, 8)
    assert mlp(3, 8, 0, 2)(torch.randn(4, 3)).shape == (4, 2)


def test_channel_norm_is_layer_norm_of_every_pixel():
    x = torch.randn(2, 4, 3, 5, generator=gen())
    out = ChannelNorm(4)(x)
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    torch.testing.assert_close(out, (x - mean) / (var + 1e-5).sqrt())


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 64, 64), (3, 84, 84), (3, 96, 96), (3, 64, 96), (1, 24, 17)])
def test_trunks_fit_any_image_and_mirror_each_other(shape):
    trunk, back = ConvTrunk(shape, 2), DeconvTrunk(5, shape, 2)
    embed = trunk(torch.randn(2, *shape))
    assert embed.shape == (2, trunk.size)
    assert back(torch.randn(2, 5)).shape == (2, *shape)


def test_obs_trunk_and_head_cover_every_entry():
    spec = OBS["dict"]
    obs = noise_obs(spec, (2,), gen())
    trunk, head = ObsTrunk(spec, 2, 8, 1), ObsHead(spec, 7, 2, 8, 1)
    assert trunk(obs).shape == (2, trunk.size)
    out = head(torch.randn(2, 7))
    assert {key: value.shape for key, value in out.items()} == {key: value.shape for key, value in obs.items()}
    for key in obs:
        moved = trunk({**obs, key: obs[key] + 1})
        assert not torch.allclose(moved, trunk(obs)), f"the embedding ignores {key}"


def test_obs_head_splits_vectors_in_the_order_of_the_spec():
    spec = ObsSpec((("a", ArraySpec("vector", (2,))), ("b", ArraySpec("vector", (3,)))))
    head = ObsHead(spec, 4, 2, 8, 1)
    assert head.vectors is not None
    features = torch.randn(5, 4, generator=gen())
    flat = head.vectors(features)
    torch.testing.assert_close(head(features)["a"], flat[:, :2])
    torch.testing.assert_close(head(features)["b"], flat[:, 2:])


@pytest.mark.parametrize("module", ["trunk", "head", "cell"])
def test_rows_of_a_batch_never_mix(module):
    """Jacobian of row 0 with respect to row 1 is exactly 0, and each row alone gives the same."""
    spec = OBS["image"]
    nets = {
        "trunk": lambda: ConvTrunk(spec.images["image"].shape, 2),
        "head": lambda: DeconvTrunk(6, spec.images["image"].shape, 2),
        "cell": lambda: GRUCell(3, 3),
    }
    torch.manual_seed(0)
    net = nets[module]()
    x = torch.randn(3, *((3, 16, 16) if module == "trunk" else (6,)), generator=gen()).requires_grad_()
    run = (lambda v: net(v[:, :3], v[:, 3:])) if module == "cell" else net
    gradient = torch.autograd.grad(run(x)[0].sum(), x)[0]
    assert gradient[0].any() and not gradient[1:].any()
    torch.testing.assert_close(run(x[1:2])[0], run(x)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("entries", [3, nn.LARGE - 1, nn.LARGE, 2 * nn.LARGE + 5])
def test_tanh_is_torchs_within_rounding_and_has_its_gradient(entries):
    x = torch.linspace(-30, 30, entries).requires_grad_()
    found = nn.tanh(x)
    assert (found - torch.tanh(x.double())).abs().max() < 2.5e-7
    assert float(found.detach().abs().max()) <= 1
    found.sum().backward()
    assert x.grad is not None
    assert (x.grad - (1 - torch.tanh(x.detach().double()) ** 2)).abs().max() < 1e-6


def test_tanh_is_torchs_in_every_bit_in_exact_mode(monkeypatch):
    x = torch.randn(nn.LARGE, generator=gen(0))
    assert not torch.equal(nn.tanh(x), torch.tanh(x))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert torch.equal(nn.tanh(x), torch.tanh(x))


def test_gru_cell_is_the_gated_unit_of_its_docstring():
    cell = GRUCell(3, 4)
    x, h = torch.randn(5, 3, generator=gen()), torch.randn(5, 4, generator=gen(1))
    gates = torch.cat([x, h], 1) @ cell.linear.weight.T
    gates = (gates - gates.mean(1, keepdim=True)) / (gates.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    reset, candidate, update = gates[:, :4].sigmoid(), gates[:, 4:8], (gates[:, 8:] - 1).sigmoid()
    expected = (1 - update) * h + update * torch.tanh(reset * candidate)
    torch.testing.assert_close(cell(x, h), expected)


@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_memory_is_a_gru_over_an_mlp_of_latent_and_action(layers):
    memory = RecurrentMemory(5, units=7, memory=4, layers=layers)
    z, action = torch.randn(6, 3, generator=gen()), torch.randn(6, 2, generator=gen(1))
    state = {"h": torch.randn(6, 4, generator=gen(2))}
    after = memory.step(state, z, action)
    expected = memory.cell(memory.input(torch.cat([z, action], 1)), state["h"])
    assert set(after) == {"h"} and torch.equal(after["h"], expected) and after["h"].shape == (6, 4)
    linears = [layer for layer in memory.input if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in linears] == [7] * layers and linears[0].in_features == 5
    start = memory.initial(3)
    assert set(start) == {"h"} and torch.equal(start["h"], torch.zeros(3, 4))
    assert memory.double().initial(1)["h"].dtype == torch.float64  # of the type and on the device of its weights


def test_random_shift_moves_each_picture_as_a_whole_and_repeats_edges():
    image = torch.rand(20, 2, 8, 8, generator=gen())
    moved = random_shift(image, 2, gen(1))
    offsets = set()
    for before, after in zip(image, moved):
        padded = torch.nn.functional.pad(before[None], (2, 2, 2, 2), mode="replicate")[0]
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(padded[:, i : i + 8, j : j + 8], after)]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) > 8


def test_frozen_lets_gradients_through_but_not_in_and_restores():
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    second.bias.requires_grad_(False)
    with frozen(second):
        second(first(torch.ones(1, 2))).sum().backward()
    assert first.weight.grad is not None and second.weight.grad is None
    assert second.weight.requires_grad and not second.bias.requires_grad


def test_frozen_restores_after_an_error():
    net = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError), frozen(net):
        raise RuntimeError
    assert net.weight.requires_grad


def test_ema_update_is_the_moving_average_of_weights_and_copies_buffers():
    target, source = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        source.weight.fill_(3.0)
    source.running_mean.fill_(7.0)  # type: ignore[union-attr]
    before = weights(target)["weight"]
    for _ in range(2):
        ema_update(target, source, 0.1)
    torch.testing.assert_close(target.weight, 0.81 * before + 0.19 * source.weight)
    torch.testing.assert_close(target.running_mean, source.running_mean)


def test_check_shape_names_what_came_and_what_the_contract_says():
    check_shape(torch.zeros(2, 3), (None, 3), "embed")
    with pytest.raises(PluginError, match=r"embed has shape \[2, 3\]; the contract says \[\*, 4\]"):
        check_shape(torch.zeros(2, 3), (None, 4), "embed")


def test_running_moments_standardise_and_follow_at_their_rate():
    moments = RunningMoments(3).double()
    g = torch.Generator().manual_seed(0)
    first, second = (torch.randn(64, 3, generator=g, dtype=torch.float64) * s + m for s, m in ((2.0, 5.0), (4.0, 1.0)))
    moments.measure(moments(first))
    assert moments.update() is False
    torch.testing.assert_close(moments(first).mean(0), torch.zeros(3).double())
    torch.testing.assert_close(moments(first).std(0, correction=0), torch.ones(3).double())
    mean, std = moments.mean.clone(), moments.std.clone()
    moments.measure(moments(second))
    assert moments.update() is True
    torch.testing.assert_close(moments.mean, 0.9 * mean + 0.1 * second.mean(0))
    torch.testing.assert_close(moments.std, 0.9 * std + 0.1 * second.std(0, correction=0))
    moments.eval().measure(first)
    before = moments.mean.clone()
    moments.update()
    assert torch.equal(moments.mean, before)
