"""Engines: each computes what the chain does, the fastest is taken, and one that errs is not."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, Flatten, MaxPool, OpenChainError, ShapeError, Skip, relu
from skipway.deploy import compile, compiling, engines, fold, load
from skipway.deploy.engines import ENGINES, Engine, Unfit

INSTALLED = [n for n, e in ENGINES.items() if not e.missing and "cpu" in e.devices and n != "compile"]


@pytest.fixture
def net() -> Chain:
    """A small convolutional net on images of one channel, as training would leave it."""
    made = Chain(
        Conv(1, 8, 3, padding=1), BatchNorm(8), relu, MaxPool(2),
        Skip(Conv(8, 8, 3, relu, padding=1), Conv(8, 8, 3, padding=1), BatchNorm(8), act=relu),
        Flatten(), Dense(..., 5), input=(1, 8, 8),
    )  # fmt: skip
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return made.eval()


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("rows", [1, 6])
def test_every_engine_computes_the_same(net, engine, rows):
    x = torch.randn(rows, 1, 8, 8)
    fast = compile(net, x, engine, seconds=0.01)
    assert fast.engine == engine
    for n in (rows, 1, 3, 17):
        other = torch.randn(n, 1, 8, 8)
        before = other.clone()
        found = fast(other)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert torch.allclose(found, net(other), rtol=1e-4, atol=1e-5)
        assert torch.equal(other, before)
    first = fast(x)
    kept = first.clone()
    fast(torch.randn(rows, 1, 8, 8))
    assert torch.equal(first, kept)  # what was returned is the caller's


@pytest.mark.parametrize("engine", ["eager", "channels_last", *[e for e in INSTALLED if e == "openvino"]])
def test_bf16(net, engine):
    x = torch.randn(4, 1, 8, 8)
    fast = compile(net, x, engine, "bf16", seconds=0.01)
    assert fast(x).dtype == torch.float32
    assert 0 < fast.candidates[0].difference < 0.1


def test_vectors(monkeypatch):
    monkeypatch.delitem(ENGINES, "compile")  # it takes a minute, and has a test of its own
    net = Chain(Dense(6, 8, relu), Skip(Dense(8, 8)), Dense(8, 2)).eval()
    fast = compile(net, torch.randn(4, 6), seconds=0.01)
    assert torch.allclose(fast(torch.ones(9, 6)), net(torch.ones(9, 6)), atol=1e-5)
    why = {c.engine: c.why for c in fast.candidates}
    assert why["channels_last"] == "the input is no image"


def test_the_net_stays_as_it_is(net):
    state = {key: value.clone() for key, value in net.state_dict().items()}
    compile(net, torch.randn(2, 1, 8, 8), "channels_last", "bf16", seconds=0.01)
    assert all(
        torch.equal(state[key], value) and value.dtype == state[key].dtype for key, value in net.state_dict().items()
    )
    assert net[0].weight.is_contiguous()


def test_one_channel_is_laid_out_channels_last():
    x = engines._last(torch.randn(3, 1, 5, 7))
    assert x.stride() == (35, 1, 7, 1)
    x = engines._last(torch.randn(3, 2, 5, 7))
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_a_folded_net_is_not_folded_again(net):
    folded = fold(net)
    assert compile(folded, torch.randn(2, 1, 8, 8), "eager", seconds=0.01).chain is folded


@pytest.mark.parametrize("engine", INSTALLED)
def test_threads(net, engine):
    fast = compile(net, torch.randn(4, 1, 8, 8), engine, seconds=0.01)
    inputs = [torch.randn(4, 1, 8, 8) for _ in range(8)]
    with torch.no_grad():
        expected = [net(x) for x in inputs]
    wrong = []

    def work(which: int) -> None:
        for _ in range(20):
            if not torch.allclose(fast(inputs[which]), expected[which], rtol=1e-4, atol=1e-5):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- which engine is taken ---------------------------------------------------------------------------------------------


def slow(chain, example, precision):
    run = engines.eager(chain, example, precision)
    return lambda x: [run(x) for _ in range(20)][-1]


def wrong(chain, example, precision):
    return lambda x: chain(x) * 1.01


def one_row_only(chain, example, precision):
    return lambda x: chain(x) if len(x) == 4 else chain(x) * 2


def broken(chain, example, precision):
    raise RuntimeError("no such operator: frobnicate")


def unfit(chain, example, precision):
    raise Unfit("it is Tuesday")


@pytest.fixture
def only(monkeypatch):
    """Let there be these engines and no others."""

    def these(**found):
        monkeypatch.setattr(compiling, "ENGINES", found)

    return these


def test_the_fastest_that_is_right(net, only):
    made = {
        "slow": slow,
        "eager": engines.eager,
        "wrong": wrong,
        "rows": one_row_only,
        "broken": broken,
        "unfit": unfit,
    }
    only(**{name: Engine(build) for name, build in made.items()}, far=Engine(slow, ("no_such_module",), "far"))
    fast = compile(net, torch.randn(4, 1, 8, 8), seconds=0.05)
    assert fast.engine == "eager"
    assert [c.engine for c in fast.candidates[:2]] == ["eager", "slow"]
    why = {c.engine: c.why for c in fast.candidates}
    assert why["wrong"] == why["rows"] == "its output differs from the net's"
    assert why["broken"] == "RuntimeError: no such operator: frobnicate"
    assert why["unfit"] == "it is Tuesday"
    assert why["far"] == 'needs no_such_module: pip install "skipway[far]"'
    text = str(fast)
    assert "compiled for eager, fp32, on input (4, 1, 8, 8)" in text
    assert all(name in text for name in made)
    assert "eager fp32" in repr(fast)


def test_the_compiler_is_tried_where_nothing_better_is(only):
    only(eager=Engine(slow), compile=Engine(slow), other=Engine(slow, ("torch",), "other", ("cpu",)))
    assert compiling._named("auto", "cpu") == ["eager", "other"]
    assert compiling._named("all", "cpu") == ["eager", "compile", "other"]
    assert compiling._named("auto", "cuda") == ["eager", "compile"]  # the other does not run there
    only(eager=Engine(slow), compile=Engine(slow), other=Engine(slow, ("no_such_module",), "other", ("cpu",)))
    assert compiling._named("auto", "cpu") == ["eager", "compile", "other"]


def test_an_engine_asked_for_by_name(net, only):
    only(far=Engine(slow, ("no_such_module",), "far"), wrong=Engine(wrong), gpu=Engine(slow, devices=("cuda",)))
    x = torch.randn(4, 1, 8, 8)
    with pytest.raises(ChainError, match=r"'far' cannot be used: needs no_such_module: pip install \"skipway\[far\]\""):
        compile(net, x, "far")
    with pytest.raises(ChainError, match="'wrong' cannot be used: its output differs"):
        compile(net, x, "wrong")
    with pytest.raises(ChainError, match="'gpu' cannot be used: does not run on cpu"):
        compile(net, x, "gpu")


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compiled(net):
    x = torch.randn(2, 1, 8, 8)
    with pytest.raises(ChainError, match="did you mean 'eager'"):
        compile(net, x, "eagre")
    with pytest.raises(ChainError, match=r'"fp32" or "bf16", not \'fp16\''):
        compile(net, x, precision="fp16")
    with pytest.raises(ChainError, match="takes an example"):
        compile(net, (1, 8, 8))
    with pytest.raises(ShapeError):
        compile(net, torch.randn(2, 3, 8, 8), "eager")
    with pytest.raises(ChainError, match="training mode"):
        compile(net.train(), x)
    with pytest.raises(OpenChainError):
        compile(Chain(Dense(..., 2)).eval(), torch.randn(2, 3))


def test_other_inputs_than_the_example(net):
    fast = compile(net, torch.randn(2, 1, 8, 8), "eager", seconds=0.01)
    with pytest.raises(ChainError, match=r"compiled for torch.float32 on cpu of shape \('N', 1, 8, 8\), and gets"):
        fast(torch.randn(1, 8, 8))
    with pytest.raises(ChainError, match=r"gets torch\.float64"):
        fast(torch.randn(2, 1, 8, 8, dtype=torch.float64))
    with pytest.raises(ShapeError):
        fast(torch.randn(2, 3, 8, 8))


def test_inputs_that_are_no_such_inputs(net):
    with pytest.raises(ChainError, match="at least one row"):
        compile(net, torch.randn(0, 1, 8, 8))
    with pytest.raises(ChainError, match=r"the example is torch\.float64, and the net is torch\.float32: give"):
        compile(net, torch.randn(2, 1, 8, 8, dtype=torch.float64), "eager")
    with pytest.raises(ChainError, match=r"holds torch\.int64 .*: x\.to\(torch\.float32\)"):
        compile(net, torch.ones(2, 1, 8, 8, dtype=torch.int64), "eager")
    fast = compile(net, torch.randn(2, 1, 8, 8), "eager", seconds=0.01)
    with pytest.raises(ChainError, match="takes a tensor"):
        fast([1.0])
    assert fast(nn.Parameter(torch.randn(2, 1, 8, 8))).shape == (2, 5)


def test_nets_that_nothing_can_be_compared_with(net):
    with pytest.raises(ChainError, match=r"the net is torch\.bfloat16: give the float32 net"):
        compile(copy.deepcopy(net).bfloat16(), torch.randn(2, 1, 8, 8, dtype=torch.bfloat16))
    with pytest.raises(ChainError, match="own output for the example is not finite"):
        compile(net, torch.full((2, 1, 8, 8), torch.inf))


@pytest.mark.parametrize("engine", INSTALLED)
def test_outputs_are_ordinary_float32_tensors(net, engine):
    x = torch.randn(2, 1, 8, 8)
    fast = compile(net, x, engine, seconds=0.01)
    expected = fast(x)
    assert not expected.is_inference()
    torch.nn.functional.linear(fast(x), torch.ones(1, 5, requires_grad=True)).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), expected)
    with torch.inference_mode():
        fast(torch.randn(3, 1, 8, 8))
    assert fast(torch.randn(3, 1, 8, 8)).shape == (3, 5)
    assert copy.deepcopy(fast) is fast
    with pytest.raises(ChainError, match="save"):
        pickle.dumps(fast)


def test_another_shape_than_the_engine_takes(net, only):
    def picky(chain, example, precision):
        def run(x):
            if x.shape[1:] != example.shape[1:]:
                raise RuntimeError("Got invalid dimensions")
            return chain(x)

        return run

    only(picky=Engine(picky))
    fast = compile(net, torch.randn(2, 1, 8, 8), "picky", seconds=0.01)
    with pytest.raises(ChainError, match=r"picky does not take \(2, 1, 10, 10\)"):
        fast(torch.randn(2, 1, 10, 10))


def lacking(chain, example, precision):
    try:
        raise RuntimeError("No ONNX function found for <OpOverload(op='aten.frobnicate', overload='default')>.")
    except RuntimeError as error:
        raise ValueError("Failed to convert the exported program") from error


def lacking_too(chain, example, precision):
    raise RuntimeError("No conversion rule found for operations: aten::frobnicate.default")


def test_an_operator_that_an_engine_lacks_is_named(net, only):
    only(onnx=Engine(lacking), vino=Engine(lacking_too), eager=Engine(engines.eager))
    fast = compile(net, torch.randn(2, 1, 8, 8), seconds=0.01)
    assert fast.engine == "eager"
    why = {c.engine: c.why for c in fast.candidates}
    assert why["onnx"] == "has no operator aten.frobnicate"
    assert why["vino"] == "has no operator aten::frobnicate.default"
    with pytest.raises(ChainError, match=r"'onnx' cannot be used: has no operator aten\.frobnicate"):
        compile(net, torch.randn(2, 1, 8, 8), "onnx")


def test_no_engine_at_all(net, only):
    only(wrong=Engine(wrong), broken=Engine(broken))
    with pytest.raises(ChainError, match=r"no engine can be used: wrong: its output differs.*; broken: RuntimeError"):
        compile(net, torch.randn(2, 1, 8, 8))


def bf16_slowly(chain, example, precision):
    run = engines.eager(chain, example, precision)
    return (lambda x: [run(x) for _ in range(30)][-1]) if precision == "bf16" else run


def test_bf16_may_be_computed_in_float32_where_that_is_faster(net, only, monkeypatch):
    monkeypatch.setattr(compiling, "has_bf16", lambda: True)
    only(first=Engine(bf16_slowly), second=Engine(bf16_slowly))
    fast = compile(net, torch.randn(2, 1, 8, 8), precision="bf16", seconds=0.05)
    assert fast.precision == "bf16"
    assert fast.candidates[0].computes == "fp32"
    assert {c.computes for c in fast.candidates} == {"fp32", "bf16"}
    assert compile(net, torch.randn(2, 1, 8, 8), "first", "bf16", seconds=0.01).candidates[0].computes == "bf16"


def test_bf16_is_not_tried_where_it_would_be_emulated(net, only, monkeypatch):
    only(first=Engine(bf16_slowly), second=Engine(bf16_slowly))
    monkeypatch.setattr(compiling, "has_bf16", lambda: False)
    fast = compile(net, torch.randn(2, 1, 8, 8), precision="bf16", seconds=0.01)
    why = {(c.engine, c.computes): c.why for c in fast.candidates}
    assert why["first", "bf16"] == why["second", "bf16"] == "this processor has no bf16 arithmetic"
    assert fast.candidates[0].computes == "fp32"


def test_an_engine_with_threads_of_its_own_is_tried_on_one_where_the_net_is_small(net, only, monkeypatch):
    given = []

    def threaded(chain, example, precision, threads=None):
        given.append(threads)
        return engines.eager(chain, example, precision)

    only(own=Engine(threaded, alone=True), other=Engine(engines.eager))
    monkeypatch.setattr(compiling.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(compiling, "SMALL", 1e9)
    fast = compile(net, torch.randn(2, 1, 8, 8), seconds=0.01)
    assert given == [None, 1]
    assert sorted(c.name for c in fast.candidates) == ["other", "own", "own, 1 thread"]
    monkeypatch.setattr(compiling, "SMALL", 0.0)
    assert sorted(c.name for c in compile(net, torch.randn(2, 1, 8, 8), seconds=0.01).candidates) == ["other", "own"]


def test_an_engine_may_be_given_norms_or_clamps(only):
    net = Chain(BatchNorm(4), relu, Conv(4, 4, 1), input=(4, 6, 6)).eval()
    net[0].running_mean.normal_()
    seen = []

    def remember(chain, example, precision):
        seen.append([type(layer).__name__ for layer in chain])
        return engines.eager(chain, example, precision)

    only(both=Engine(remember, norms=True), one=Engine(remember))
    fast = compile(net, torch.randn(2, 4, 6, 6), seconds=0.01)
    assert seen == [["Clamp", "Conv2d"], ["BatchNorm", "builtin_function_or_method", "Conv2d"], ["Clamp", "Conv2d"]]
    assert sorted(c.name for c in fast.candidates) == ["both", "both, norms", "one"]
    with torch.no_grad():
        x = torch.randn(3, 4, 6, 6)
        assert torch.allclose(fast(x), net(x), atol=1e-5)


def test_a_graph_of_a_chain_is_made_once_and_let_go(net, only):
    def graph(chain, example, precision):
        assert engines.exported(chain, example) is engines.exported(chain, example)
        return engines.eager(chain, example, precision)

    only(graph=Engine(graph))
    fast = compile(net, torch.randn(1, 1, 8, 8), seconds=0.01)
    assert fast.chain not in engines._EXPORTED


# -- save and load -----------------------------------------------------------------------------------------------------


def test_save_and_load(net, tmp_path):
    x = torch.randn(3, 1, 8, 8)
    fast = compile(net, x, "channels_last", seconds=0.01)
    fast.save(tmp_path / "net.pt")
    again = load(tmp_path / "net.pt")
    assert (again.engine, again.precision) == ("channels_last", "fp32")
    assert torch.equal(again(x), fast(x))
    assert str(again.chain.report) == str(fast.chain.report)


def test_load_where_the_engine_is_not_there(net, only, tmp_path):
    x = torch.randn(3, 1, 8, 8)
    compile(net, x, "onednn", seconds=0.01).save(tmp_path / "net.pt")
    only(eager=Engine(engines.eager), onednn=Engine(engines.onednn, ("no_such_module",), "far"))
    with pytest.raises(
        ChainError, match=r'saved for onednn, which needs .*"skipway\[far\]"; or run it on another: load'
    ):
        load(tmp_path / "net.pt")
    for engine in ("eager", "auto"):
        again = load(tmp_path / "net.pt", engine)
        assert again.engine == "eager"
        with torch.no_grad():
            assert torch.allclose(again(x), net(x), atol=1e-5)
    only(eager=Engine(engines.eager))
    with pytest.raises(ChainError, match="saved for onednn, which is not an engine of this version"):
        load(tmp_path / "net.pt")


def test_load_of_something_else(tmp_path):
    torch.save([1, 2], tmp_path / "net.pt")
    with pytest.raises(ChainError, match="not written by save"):
        load(tmp_path / "net.pt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("engine", ["cuda_graph", "channels_last"])
def test_on_a_gpu(net, engine):
    net, x = net.cuda(), torch.randn(4, 1, 8, 8, device="cuda")
    fast = compile(net, x, engine, seconds=0.01)
    for n in (4, 1, 9, 4):
        other = torch.randn(n, 1, 8, 8, device="cuda")
        with torch.no_grad():
            assert torch.allclose(fast(other), net(other), rtol=1e-3, atol=1e-4)


def test_what_cannot_be_saved(tmp_path):
    net = Chain(Dense(4, 4), lambda x: x + 1).eval()
    with pytest.raises(ChainError, match="such as a lambda"):
        compile(net, torch.randn(2, 4), "eager", seconds=0.01).save(tmp_path / "net.pt")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
def test_the_compiler(net):
    x = torch.randn(1, 1, 8, 8)
    fast = compile(net, x, "compile", seconds=0.01)
    for n in (1, 2):  # the second is compiled anew
        other = torch.randn(n, 1, 8, 8)
        assert torch.allclose(fast(other), net(other), rtol=1e-4, atol=1e-5)


def test_the_page_on_inference_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(ENGINES, "compile")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    assert (tmp_path / "net.pt").exists()
    assert names["y"].shape[0] == 3
    printed = capsys.readouterr().out
    assert "compiled for" in printed
    assert "largest difference" in printed
    assert all(f"`{name}`" in page for name in names["compile"].__globals__["ENGINES"])
