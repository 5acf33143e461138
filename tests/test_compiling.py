"""Many compiled nets in one process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import Chain, Dense, every, relu
from skipway.compiling import compile_alone


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _net(layers: int) -> Chain:
    return Chain(*[Dense(4, 4, relu) for _ in range(layers)], wiring=every(1))


def test_more_nets_than_the_compiler_has_recompilations():
    """``torch.compile`` alone stops at the ninth; here ``fullgraph`` would make that an error."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    x = torch.randn(3, 4)
    for layers in range(1, 13):
        net = _net(layers)
        fast = compile_alone(net, backend=backend, fullgraph=True)
        torch.testing.assert_close(fast(x), net(x), rtol=0, atol=0)
    assert len(graphs) == 12


def test_gradients_reach_the_parameters_of_the_net():
    net, x = _net(3), torch.randn(5, 4)
    compile_alone(net, backend="aot_eager")(x).sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x).sum().backward()
    for ours, theirs in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad)


def test_keywords_and_training_mode_are_seen():
    class Odd(nn.Module):
        def forward(self, x, *, plus=0):
            return x + plus if self.training else x

    odd = Odd()
    fast = compile_alone(odd, backend="eager")
    assert float(fast(torch.zeros(()), plus=2)) == 2
    odd.eval()
    assert float(fast(torch.zeros(()), plus=2)) == 0
