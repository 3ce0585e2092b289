"""worldlab.runs.optimizer_state: an optimizer restored from tensors and JSON steps exactly as the original would."""

from __future__ import annotations

import json

import pytest
import torch

from worldlab.errors import CheckpointError
from worldlab.runs.checkpoint import flatten_optimizer, latest_valid, restore_optimizer, save_checkpoint

MAKERS = {
    "adam": lambda p: torch.optim.Adam([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}], lr=0.02, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1 / 3, betas=(0.8, 0.95)),
    "tensor-lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2), (4,), ())]


def steps(optimizer, values, seeds):
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for value in values[:2]:  # the last parameter never gets a gradient, hence no state
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_the_next_steps_are_bit_equal_through_a_checkpoint(tmp_path, maker):
    values = parameters()
    optimizer = maker(values)
    steps(optimizer, values, range(3))
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.5
    tensors, state = flatten_optimizer(optimizer)
    model = {str(k): value for k, value in enumerate(values)}
    save_checkpoint(tmp_path, 3, {"model": model, "optimizer": tensors}, {"optimizer": state})
    steps(optimizer, values, range(3, 6))

    loaded = latest_valid(tmp_path)
    again = [torch.nn.Parameter(value) for _, value in sorted(loaded.tensors("model").items())]
    other = maker(again)
    saved = loaded.tensors("optimizer")
    before = {key: value.clone() for key, value in saved.items()}
    restore_optimizer(other, saved, loaded.state["optimizer"])
    steps(other, again, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(values, again))
    assert all(torch.equal(before[key], saved[key]) for key in saved)


def test_a_state_that_does_not_fit_is_an_error_and_changes_nothing():
    values = parameters()
    optimizer = MAKERS["adam"](values)
    steps(optimizer, values, range(2))
    tensors, state = flatten_optimizer(optimizer)
    state = json.loads(json.dumps(state))
    other = [torch.nn.Parameter(torch.zeros(5, 2)), *parameters()[1:]]
    for target in (MAKERS["adam"](other), MAKERS["adam"](values[:1]), MAKERS["sgd"](values)):
        with pytest.raises(CheckpointError, match="does not fit") as caught:
            restore_optimizer(target, tensors, state)
        assert not target.state and caught.value.cause
    with pytest.raises(CheckpointError):
        restore_optimizer(MAKERS["adam"](values), {"99.exp_avg": torch.ones(1)}, state)
