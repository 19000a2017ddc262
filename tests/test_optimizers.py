"""The optimizers of the training loop."""

import pytest
import torch
from torch import nn

from dreampose_cli.training import optimizers
from dreampose_cli.training.optimizers import Muon, is_matrix, make_optimizer, orthogonal

HOW = {"learning_rate": 0.01, "beta2": 0.99, "weight_decay": 0.1}


def a_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.GroupNorm(8, 24), nn.Conv2d(24, 4, 1))


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 20, 20)])
def test_singular_values_become_nearly_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 100
    found = torch.linalg.svdvals(orthogonal(matrices))
    assert found.min() > 0.5
    assert found.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    likeness = (orthogonal(matrices) * (u @ v)).sum((1, 2)) / min(shape[1:])
    assert likeness.min() > 0.7


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (2, 24, 400)])
def test_long_matrices_by_their_squares_are_the_same(shape, monkeypatch):
    """Also where singular values lie four orders of magnitude apart."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.logspace(0, -4, shape[2])
    by_squares = orthogonal(matrices)
    monkeypatch.setattr(optimizers, "LONG", 10**9)
    by_products = orthogonal(matrices)
    assert not torch.equal(by_squares, by_products)  # else one way was taken twice
    assert (by_squares - by_products).abs().max() < 5e-4
    assert (by_squares - orthogonal(matrices.double())).abs().max() < 5e-4  # bfloat16 is a hundred times as far off


def test_muon_has_the_matrices_and_adamw_the_rest():
    network = a_network()
    parameters = list(network.parameters())
    assert [is_matrix(p) for p in parameters] == [True, False, False, False, False, False]
    twin = a_network()
    muon = make_optimizer("muon", parameters, **HOW)
    adamw = make_optimizer("adamw", list(twin.parameters()), **HOW)
    picture = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    for net, optimizer in ((network, muon), (twin, adamw)):
        net(picture).square().mean().backward()
        optimizer.step()
    same = [torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True)]
    assert same == [False, True, True, True, True, True]
    moved = (network[0].weight - a_network()[0].weight * (1 - 0.01 * 0.1)).detach()
    assert torch.linalg.svdvals(moved.reshape(24, -1)).max() < 0.01 * 0.2 * 144**0.5 * 1.3
    assert moved.square().mean().sqrt() == pytest.approx(0.01 * 0.2, rel=0.3)  # as AdamW's updates are


def test_muon_goes_on_from_its_saved_state(tmp_path):
    picture = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(2))

    def steps(network, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (network(picture) - 1).square().mean().backward()
            optimizer.step()

    whole = a_network()
    steps(whole, make_optimizer("muon", list(whole.parameters()), **HOW), 4)
    first = a_network()
    optimizer = make_optimizer("muon", list(first.parameters()), **HOW)
    steps(first, optimizer, 2)
    torch.save([first.state_dict(), optimizer.state_dict()], tmp_path / "state")
    weights, state = torch.load(tmp_path / "state", weights_only=True)
    second = a_network()
    second.load_state_dict(weights)
    optimizer = make_optimizer("muon", list(second.parameters()), **HOW)
    optimizer.load_state_dict(state)
    steps(second, optimizer, 2)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_that_the_gradient_scaler_leaves_out_moves_nothing():
    network = a_network()
    optimizer = make_optimizer("muon", list(network.parameters()), **HOW)
    assert isinstance(optimizer, Muon)
    assert not optimizer._step_supports_amp_scaling  # else GradScaler calls step() and trusts it to look
