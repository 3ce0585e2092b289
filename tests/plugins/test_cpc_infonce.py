import math

import pytest
import torch
from cpc_toys import gaussian_log_ratio, gaussian_pair, gen, mutual_information
from worldlab_cpc.infonce import cosine_scores, frame_candidates, infonce_loss, masked_mean, symmetric_infonce


def test_loss_is_the_cross_entropy_over_allowed_candidates():
    scores = torch.randn(5, 5, generator=gen())
    allowed = torch.rand(5, 5, generator=gen(1)) > 0.4
    contrast = infonce_loss(scores, allowed)
    for i in range(5):
        kept = [j for j in range(5) if allowed[i, j] or i == j]
        total = sum(math.exp(scores[i, j]) for j in kept)
        assert contrast.loss[i].item() == pytest.approx(-math.log(math.exp(scores[i, i]) / total), abs=1e-5)
        assert contrast.log_k[i].item() == pytest.approx(math.log(len(kept)))
        assert contrast.correct[i].item() == float(max(kept, key=lambda j: scores[i, j]) == i)


def test_bound_never_exceeds_log_k_and_gradients_stay_finite():
    scores = (torch.randn(3, 6, 6, generator=gen()) * 1e4).requires_grad_()
    contrast = infonce_loss(scores, torch.rand(6, 6, generator=gen(1)) > 0.5)
    assert (contrast.bound <= contrast.log_k + 1e-6).all()
    contrast.loss.sum().backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()


def test_a_blind_critic_knows_nothing():
    contrast = infonce_loss(torch.zeros(7, 7))
    assert contrast.bound.abs().max().item() < 1e-6
    assert contrast.correct.mean().item() == pytest.approx(1 / 7)


def test_symmetric_is_the_mean_of_both_directions():
    scores = torch.randn(4, 4, generator=gen())
    allowed = torch.rand(4, 4, generator=gen(1)) > 0.3
    both = symmetric_infonce(scores, allowed)
    expected = (infonce_loss(scores, allowed).loss + infonce_loss(scores.T, allowed.T).loss) / 2
    torch.testing.assert_close(both.loss, expected)
    assert (both.bound <= both.log_k + 1e-6).all()


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.999])
def test_bound_of_the_true_ratio_meets_known_mutual_information(rho: float):
    """Gaussian pairs, K = 128: below min(MI, log K) up to its standard error, and within 10 % while MI < 0.6 log K."""
    k, dim, repeats = 128, 3, 60
    x, y = gaussian_pair(rho, k * repeats, dim, seed=0)
    x, y = x.view(repeats, k, dim), y.view(repeats, k, dim)
    bounds = infonce_loss(gaussian_log_ratio(rho, x[:, :, None], y[:, None])).bound.mean(1)
    estimate, error = bounds.mean().item(), bounds.std().item() / math.sqrt(repeats)
    mi = mutual_information(rho, dim)
    assert estimate <= min(mi, math.log(k)) + 3 * error
    if mi < 0.6 * math.log(k):
        assert estimate >= 0.9 * mi - 3 * error


def test_shuffled_pairs_carry_no_information():
    x, y = gaussian_pair(0.9, 64 * 100, 2, seed=0)
    x, y = x.view(100, 64, 2), y.view(100, 64, 2).roll(1, 0)
    # Of independent pairs the best score is a constant; any other one, such as the old ratio, can only lose.
    assert infonce_loss(torch.zeros(100, 64, 64)).bound.mean().item() == pytest.approx(0, abs=1e-6)
    ratio = gaussian_log_ratio(0.9, x[:, :, None], y[:, None])
    assert infonce_loss(ratio).bound.mean().item() < 0
    # In expectation over shuffles, a weak score is level with nothing.
    bounds = infonce_loss(0.05 * ratio.clamp(-10, 10)).bound.mean(1)
    assert abs(bounds.mean().item()) < 0.05


def test_frame_candidates_by_enumeration():
    row = torch.tensor([0, 0, 0, 1, 1])
    time = torch.tensor([0, 2, 9, 0, 1])
    mask = torch.tensor([1.0, 1, 1, 1, 0])
    allowed = frame_candidates(row, time, mask, exclude=5)
    for i in range(5):
        for j in range(5):
            near = row[i] == row[j] and abs(int(time[i] - time[j])) <= 5
            assert bool(allowed[i, j]) == (not near and bool(mask[i]) and bool(mask[j]))


def test_cosine_scores_are_bounded_by_the_temperature():
    query, key = torch.randn(6, 4, generator=gen()) * 50, torch.randn(6, 4, generator=gen(1))
    scores = cosine_scores(query, key, 0.1)
    assert scores.abs().max().item() <= 10 + 1e-4
    expected = torch.cosine_similarity(query[:, None], key[None], dim=-1) / 0.1
    torch.testing.assert_close(scores, expected)


def test_masked_mean():
    x, mask = torch.tensor([1.0, 2, 30]), torch.tensor([1.0, 1, 0])
    assert masked_mean(x, mask).item() == 1.5
    assert masked_mean(x, torch.zeros(3)).item() == 0
