import torch
from model_kit import gen

from worldlab.heads import ContinueHead, ProbeDecoder, TwoHotHead
from worldlab.model.noise import noise_obs
from worldlab.testing.toys import OBS


def test_heads_take_any_leading_dimensions():
    features = torch.randn(2, 3, 5, generator=gen())
    reward, cont = TwoHotHead(5, 8, 1), ContinueHead(5, 8, 1)
    assert reward(features).mean.shape == (2, 3) and cont(features).mean.shape == (2, 3)
    torch.testing.assert_close(cont(features).mean[1], cont(features[1]).mean)


def test_a_reward_head_learns_the_mean_of_what_it_saw():
    """Two inputs, each with its own random rewards: the fitted mean is the average of that input's rewards."""
    torch.manual_seed(0)
    head = TwoHotHead(2, 16, 0)
    features = torch.eye(2).repeat(200, 1)
    reward = torch.randn(400, generator=gen()) * 2 + torch.tensor([3.0, -20.0]).repeat(200)
    optimizer = torch.optim.Adam(head.parameters(), 0.5)
    for _ in range(100):
        optimizer.zero_grad()
        (-head(features).log_prob(reward)).mean().backward()
        optimizer.step()
    expected = reward.reshape(200, 2).mean(0)
    torch.testing.assert_close(head(torch.eye(2)).mean, expected, rtol=0.05, atol=0.3)


def test_a_continue_head_learns_the_share_of_survivors():
    torch.manual_seed(0)
    head = ContinueHead(2, 8, 0)
    features, cont = torch.eye(2).repeat(50, 1), torch.ones(100)
    cont[:20:2] = 0  # 10 of 50 ended after the first kind of features
    optimizer = torch.optim.Adam(head.parameters(), 0.3)
    for _ in range(80):
        optimizer.zero_grad()
        (-head(features).log_prob(cont)).mean().backward()
        optimizer.step()
    mean = head(torch.eye(2)).mean
    assert abs(mean[0].item() - 0.8) < 0.02 and mean[1].item() > 0.97


def test_the_probe_changes_nothing_in_the_features_and_sums_the_squared_error():
    spec = OBS["dict"]
    probe = ProbeDecoder(spec, 6, 8, width=2)
    features = torch.randn(4, 6, generator=gen(), requires_grad=True)
    obs = noise_obs(spec, (4,), gen(1))
    loss = probe.losses(features, obs)
    expected = sum(((probe(features)[key] - obs[key]) ** 2).flatten(1).sum(1) for key in obs)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert features.grad is None
    assert all(p.grad is not None for p in probe.parameters())
