import copy
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skipway.train.compiled as compiled
from skipway import Chain, Conv, Dense, Flatten, Skip, every, relu
from skipway.errors import CheckpointError, TrainError
from skipway.train import History, evaluate, load

Fit = Callable[..., History]
Data = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that were compiled; they run as they are."""
    found: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        # what the compilers of torch say of themselves
        warnings.warn_explicit("of no use to a user", UserWarning, "config.py", 1, module="torch._inductor.config")
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    return found


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return a.state_dict().keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in a.state_dict().items())


def chain() -> Chain:
    return Chain(Dense(4, 8, relu), Dense(8, 8, relu), Dense(8, 3), wiring=every(1, path="project"))


def test_one_graph_is_compiled_and_the_net_is_trained_as_without(
    graphs: list[Any], net: nn.Module, blobs: Data, quick: Fit
) -> None:
    plain = copy.deepcopy(net)
    expected = quick(plain, blobs, blobs, epochs=3)
    history = quick(net, blobs, blobs, epochs=3, compile=True)
    assert same(plain, net)
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert history.to_dict()[name] == expected.to_dict()[name]
    # 20, 20 and 21 rows, then the test, for three epochs: all but the first shape runs without
    assert len(graphs) == 1
    assert any("linear" in str(node.target) for node in graphs[0].graph.nodes), "the net is not in the graph"
    assert any("nll" in str(node.target) for node in graphs[0].graph.nodes), "the loss is not in the graph"
    assert not net._forward_hooks


def test_what_is_saved_has_the_names_of_the_net(graphs: list[Any], blobs: Data, quick: Fit, tmp_path: Path) -> None:
    net, other = chain(), chain()
    quick(net, blobs, compile=True, run=tmp_path)
    assert same(load(other, tmp_path), net)
    assert evaluate(other, blobs) == evaluate(net, blobs)
    assert graphs


def test_a_resume_goes_on_bit_for_bit_and_compiled(graphs: list[Any], blobs: Data, quick: Fit, tmp_path: Path) -> None:
    whole = chain()
    first = copy.deepcopy(whole)
    quick(whole, blobs, epochs=4, compile=True)
    quick(first, blobs, epochs=2, compile=True, run=tmp_path)
    second = chain()
    with pytest.raises(CheckpointError, match=r"other options: compile was True and is None"):
        quick(second, blobs, epochs=4, run=tmp_path, resume=True)
    quick(second, blobs, epochs=4, compile=True, run=tmp_path, resume=True)
    assert same(whole, second)


def test_many_nets_in_one_process_are_all_compiled(graphs: list[Any], blobs: Data, quick: Fit) -> None:
    for count in range(1, 11):  # torch's limit for one function is 8
        quick(chain(), blobs, epochs=1, batch=61, compile=True)
        assert len(graphs) == count


def test_images_keep_their_channels_last_and_bf16_its_type(graphs: list[Any], quick: Fit) -> None:
    net = Chain(Skip(Conv(1, 1, 3, relu, padding=1)), Flatten(), Dense(36, 3), input=(1, 6, 6))
    plain = copy.deepcopy(net)
    data = torch.rand(24, 1, 6, 6), torch.arange(24) % 3
    quick(plain, data, batch=8, precision="bf16")
    quick(net, data, batch=8, precision="bf16", compile=True)
    held = [n.meta["example_value"] for n in graphs[0].graph.nodes if n.op == "placeholder"]
    assert [t.stride() for t in held if t.shape == (8, 1, 6, 6)] == [(36, 1, 6, 1)]
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_the_first_value_that_is_not_finite_is_still_named(graphs: list[Any], quick: Fit) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.ReLU(), nn.LogSigmoid(), nn.Threshold(0.0, -torch.inf)))
    net.append(nn.Linear(5, 3))
    before = copy.deepcopy(net)
    with pytest.raises(TrainError, match=r"not finite at step 1: .*output of layer '1.2' \(Threshold"):
        quick(net, (torch.rand(20, 4), torch.arange(20) % 3), compile=True)
    assert graphs
    assert same(net, before)
    with pytest.raises(TrainError, match=r"without compile=True all values in the net are finite"):
        quick(nn.Linear(4, 3), (torch.rand(20, 4), torch.arange(20) % 3), compile=True, loss=lambda p, y: p.sum() / 0.0)


def test_a_compiler_that_fails_is_told_and_nothing_is_changed(
    net: nn.Module, blobs: Data, quick: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: Any, example: Any) -> Any:
        raise NotImplementedError("no kernel for this")

    monkeypatch.setattr(compiled, "BACKEND", backend)
    before = copy.deepcopy(net)
    with pytest.raises(TrainError, match=r"cannot compile this net.*no kernel for this.*leave compile out"):
        quick(net, blobs, compile=True)
    assert same(net, before)


def test_without_a_compiler_nothing_is_begun(
    net: nn.Module, blobs: Data, quick: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("/there/is/no/such/compiler",)}):
        with pytest.raises(TrainError, match=r"needs a C\+\+ compiler.*install g\+\+.*CXX, or leave compile out"):
            quick(net, blobs, compile=True, run=tmp_path / "run")
        assert not (tmp_path / "run").exists()
        # where the search itself is no longer there, the first step tells
        monkeypatch.setattr("skipway.train.loop.check_compiler", lambda device: None)
        with pytest.raises(TrainError, match=r"needs a C\+\+ compiler"):
            quick(net, blobs, compile=True)


def test_a_warning_of_the_users_own_is_heard(graphs: list[Any], blobs: Data, quick: Fit) -> None:
    class Talks(nn.Linear):
        @torch.compiler.disable
        def say(self) -> None:
            warnings.warn("mine", stacklevel=1)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.say()
            return super().forward(x)

    with pytest.warns(UserWarning, match="mine"):
        quick(Talks(4, 3), blobs, compile=True)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_compile_is_true_or_false(blobs: Data, quick: Fit, value: Any) -> None:
    with pytest.raises(TrainError, match=r"compile must be True or False"):
        quick(nn.Linear(4, 3), blobs, compile=value)


@pytest.mark.slow
def test_the_compiler_of_torch_trains_the_same_net(blobs: Data, quick: Fit) -> None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("needs a C++ compiler")
    net = chain().double()
    plain = copy.deepcopy(net)
    data = blobs[0].double(), blobs[1]
    quick(plain, data, data, epochs=3)
    history = quick(net, data, data, epochs=3, compile=True)
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    assert history[-1]["test_loss"] == pytest.approx(F.cross_entropy(net(data[0]), data[1]).item(), rel=1e-12)
