import gc
import json
import math
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    CheckpointError,
    DataError,
    Dense,
    Drop,
    Dropout,
    Gate,
    Learned,
    OpenChainError,
    Shortcut,
    Skip,
    Warmup,
    Weighted,
    dense,
    every,
    fit,
    relu,
)  # fmt: skip
from skipway.study import Flow, GradientFlow, Track, gradient_flow


def batch(rows: int = 24, features: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(rows, features, generator=draw), torch.arange(rows) % 3


def quick(net, data=None, **options) -> Flow:
    return gradient_flow(net, data or batch(), progress=False, **options)


def last(flow: Flow, kind, name: str) -> float | None:
    (track,) = [t for t in flow.of(kind) if t.name == name]
    return track.last


def noisy() -> Chain:
    torch.manual_seed(1)
    body = Skip(Dense(8, 8), BatchNorm(), relu, Dropout(0.3), scale=Learned(0.5), drop=Drop(0.2))
    gated = Skip(Dense(8, 8, relu), merge="gate")
    return Chain(stem=Dense(4, 8), body=body, gated=gated, head=Dense(8, 3))


# -- known answers -----------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_a_backward_pass():
    net, (x, y) = Chain(Dense(4, 6, relu), Dense(6, 6), Dense(6, 3), wiring=[Shortcut(0, 2, path="project")]), batch()
    flow = quick(net)
    nn.functional.cross_entropy(net(x), y).backward()
    for i in range(3):
        norm = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in net[i].parameters()))
        assert last(flow, "gradient", str(i)) == pytest.approx(norm, rel=1e-5)
    path = net.shortcuts["0->2"].path
    assert last(flow, "gradient", "0->2") == pytest.approx(float(path.weight.grad.norm()), rel=1e-5)
    assert [t.name for t in flow.of("gradient")] == ["0", "1", "0->2", "2"]


def test_what_meets_is_compared_after_its_gains():
    net, (x, _) = (
        Chain(Dense(4, 4), Dense(4, 4), Dense(4, 3), wiring=[Shortcut(0, 1, scale=0.5), Shortcut(1, 2)]),
        batch(),
    )
    flow = quick(net)
    first = 0.5 * net[0](x)
    second = net[1](first + x)
    for name, branch, trunk in (("0->1", first, x), ("1->2", second, first + x)):
        assert last(flow, "ratio", name) == pytest.approx(float((branch.norm() / trunk.norm()).detach()), rel=1e-5)
        cosine = nn.functional.cosine_similarity(branch, trunk).mean()
        assert last(flow, "cosine", name) == pytest.approx(float(cosine.detach()), abs=1e-6)


def test_a_branch_along_its_trunk_has_the_cosine_one():
    net = Chain(Dense(4, 4, bias=False), Dense(4, 3), wiring=[Shortcut(0, 1)])
    with torch.no_grad():
        net[0].weight.copy_(-3 * torch.eye(4))
    flow = quick(net)
    assert last(flow, "cosine", "0->1") == pytest.approx(-1.0, abs=1e-6)
    assert last(flow, "ratio", "0->1") == pytest.approx(3.0, rel=1e-6)


def test_values_of_other_shapes_have_no_cosine_and_nothing_has_no_ratio():
    wide = quick(Chain(Dense(4, 6), Dense(..., 3), wiring=[Shortcut(0, 1, merge="cat")], input=4))
    assert last(wide, "cosine", "0->1") is None
    assert last(wide, "ratio", "0->1") > 0
    empty = quick(Chain(Dense(4, 4), Dense(4, 3), wiring=[Shortcut(0, 1, path_scale=0.0)]))
    assert last(empty, "ratio", "0->1") is None
    assert "-" in str(empty)


def test_gains_gates_and_shares_are_their_means():
    body = [Skip(Dense(4, 4), scale=Learned(0.25), path_scale=Learned(2.0, per="channel")),
            Skip(Dense(4, 4), merge=Gate(-1.5)), Skip(Dense(4, 4), scale=Warmup(10))]  # fmt: skip
    net = Chain(*body, Dense(4, 3))
    with torch.no_grad():
        net[0].shortcuts["input->output"].path_scale.copy_(torch.tensor([1.0, 2.0, 3.0, 6.0]))
        net[1].shortcuts["input->output"].merge.transform.weight.zero_()
    flow = quick(net)
    gains = {(t.name, t.part): t.last for t in flow.of("gain")}
    assert gains == {("0: input->output", "scale"): 0.25, ("0: input->output", "path_scale"): 3.0,
                     ("2: input->output", "scale"): 0.0}  # fmt: skip
    assert last(flow, "gate", "1: input->output") == pytest.approx(1 / (1 + math.exp(1.5)), rel=1e-5)
    shares = quick(Chain(*[Dense(4, 4) for _ in range(3)], wiring=dense(merge=Weighted("softmax", init="mean"))))
    found = [(t.name, t.last) for t in shares.of("gain")]
    assert [name for name, _ in found] == ["0->1", "0->2", "1->2", "0->3", "1->3", "2->3"]
    assert [share for _, share in found] == pytest.approx([1 / 2, 1 / 3, 1 / 3, 1 / 4, 1 / 4, 1 / 4])


def test_tracks_lie_along_the_depth_and_many_are_thinned():
    net = Chain(stem=Dense(4, 5), body=Chain(*[Dense(5, 5) for _ in range(40)], wiring=every(1)), head=Dense(5, 3))
    flow = quick(net)
    places = [t.place for t in flow.of("gradient")]
    assert places == sorted(places)
    assert len(places) == 42
    assert str(flow).count("\n") < 32
    assert "branches are" in flow.verdict()
    plain = quick(net.plain())
    assert {t.kind for t in plain.tracks} == {"gradient"}
    assert "there are no shortcuts" in plain.verdict()
    assert "branch / trunk" not in str(plain)


def test_a_look_leaves_the_net_as_it_was():
    net = noisy().eval()
    net.train()[1].eval()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    assert quick(net) == quick(net)
    assert quick(net, seed=1) != quick(net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())
    assert net.training
    assert not net[1].training


# -- over training -----------------------------------------------------------------------------------------------------


def train(net, callbacks=(), epochs: int = 3, rows: int = 24, **options):
    given = {"batch": 4, "lr": 1e-2, "device": "cpu", "progress": False, **options}
    return fit(net, batch(rows), epochs=epochs, callbacks=callbacks, **given)


def hooks(net) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) + len(m._backward_hooks) for m in net.modules())


@pytest.mark.parametrize("data", [None, batch(9)], ids=["training", "data"])
@pytest.mark.parametrize("every_", [1, 5])
def test_training_goes_on_as_if_nobody_looked(data, every_):
    alone, watched = noisy(), noisy()
    history = train(alone)
    watch = GradientFlow(every_, data)
    seen = train(watched, [watch])
    assert [row["train_loss"] for row in seen] == [row["train_loss"] for row in history]
    assert all(
        torch.equal(a, b) for a, b in zip(alone.state_dict().values(), watched.state_dict().values(), strict=True)
    )
    assert hooks(watched) == 0
    assert watch.result.steps == {1: tuple(range(1, 19)), 5: (1, 5, 10, 15)}[every_]


def test_a_batch_of_training_does_not_outlive_its_step():
    watch, seen = GradientFlow(1), []

    class Keep:
        def on_step(self, state):
            seen.append(weakref.ref(state.x))

    train(noisy(), [watch, Keep()], epochs=1)
    gc.collect()
    assert len(seen) == 6
    assert all(ref() is None for ref in seen)


def test_a_training_that_goes_on_has_its_looks_from_before(tmp_path):
    class Stop:
        def on_step(self, state):
            if state.step == 9:  # in the second epoch: its looks are made again
                raise KeyboardInterrupt

    whole = GradientFlow(2)
    train(noisy(), [whole])
    options = {"run": tmp_path / "training", "resume": True}
    with pytest.raises(KeyboardInterrupt):
        train(noisy(), [GradientFlow(2, run=tmp_path), Stop()], **options)
    again = GradientFlow(2, run=tmp_path)
    train(noisy(), [again], **options)
    assert again.result.to_dict() == whole.result.to_dict()
    ended = GradientFlow(2, run=tmp_path)
    train(noisy(), [ended], **options)  # nothing is left to do
    assert ended.result.to_dict() == whole.result.to_dict()
    with pytest.raises(CheckpointError, match="every was 2 and is 3"):
        train(noisy(), [GradientFlow(3, run=tmp_path)])


def test_gradients_of_training_are_those_of_the_step():
    net, seen = noisy(), []

    class Keep:
        def on_step(self, state):
            seen.append(math.sqrt(sum(float(p.grad.norm()) ** 2 for p in net["head"].parameters())))

    watch = GradientFlow(1)
    train(net, [Keep(), watch], epochs=1)
    (track,) = [t for t in watch.result.of("gradient") if t.name == "head"]
    assert track.values == pytest.approx(seen, rel=1e-6)
    (gain,) = watch.result.of("gain")
    assert gain.last == float(net["body"].shortcuts["input->output"].scale.detach())
    assert gain.trend == gain.values[-1] - gain.values[0]


def test_data_of_its_own_is_looked_at_as_in_one_look():
    net, watch = noisy(), GradientFlow(100, batch(9))
    train(net, [watch, lambda state: True])
    once = gradient_flow(net, batch(9), progress=False)
    again = GradientFlow(1, batch(9))
    train(net, [again], lr=1e-30, optimizer="sgd", epochs=1)
    assert [t.values[0] for t in again.result.of("gradient")] == pytest.approx(
        [t.last for t in once.of("gradient")], rel=1e-5
    )


def test_nothing_stays_on_the_net_when_training_breaks():
    net, watch = noisy(), GradientFlow(1)

    class Stop:
        def on_step(self, state):
            if state.step == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(net, [Stop(), watch])
    assert hooks(net) == 0
    assert watch.result.steps == (1, 2)


def test_another_training_begins_anew():
    watch = GradientFlow(2)
    train(noisy(), [watch])
    first = watch.result
    train(noisy(), [watch], epochs=1)
    assert watch.result.steps == (1, 2, 4, 6)
    assert first.steps == (1, 2, 4, 6, 8, 10, 12, 14, 16, 18)


# -- the result --------------------------------------------------------------------------------------------------------


def test_a_result_prints_plots_and_is_plain_data(tmp_path: Path, capsys):
    once = gradient_flow(noisy(), batch())
    assert capsys.readouterr().out == "gradient_flow: one forward and one backward pass\n"
    assert str(once).startswith("step 0\n")
    watch = GradientFlow(3)
    train(noisy(), [watch])
    flow = watch.result
    assert str(flow).startswith(f"step {flow.steps[-1]}, against step 1\n")
    assert "×" in str(flow)
    stored = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert stored["steps"] == list(flow.steps)
    assert all(len(track["values"]) == len(flow.steps) for track in stored["tracks"])
    figure = flow.plot(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_title() for axes in figure.axes] == ["gradient", "branch / trunk", "cosine", "gain", "gate"]
    assert list(figure.axes[0].lines[0].get_xdata()) == list(flow.steps)
    assert len(once.plot().axes) == 5
    with pytest.raises(AttributeError):
        flow.steps = ()
    with pytest.raises(ChainError, match="there is 'gradient'"):
        flow.of("grad")


def test_trends_of_known_tracks():
    def trend(kind, *values):
        return Track(kind, "a", "", 1, False, values).trend

    assert (trend("gradient", 2.0, 5.0), trend("gain", 0.5, 0.25), trend("gain", 0.5)) == (2.5, -0.25, None)
    assert (trend("ratio", 0.0, 1.0), trend("cosine", None, 1.0)) == (None, None)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: quick(nn.Linear(4, 3)), ChainError, "not a Linear"),
        (lambda: quick(Chain(Dense(..., 3))), OpenChainError, "open"),
        (lambda: quick(Chain(Dense(4, 3)), (batch()[0] / 0, batch()[1])), DataError, "NaN"),
        (lambda: quick(Chain(Dense(4, 3)), (batch()[0], batch()[1] * 0)), DataError, "all 24 labels are 0"),
        (lambda: quick(Chain(Dense(4, 3)), (batch()[0], batch()[1][:4])), DataError, "24 rows"),
        (lambda: quick(Chain(Dense(4, 2))), DataError, "labels run from 0 to 2"),
        (lambda: quick(Chain(Dense(4, 3)), seed=-1), ChainError, "seed"),
        (lambda: GradientFlow(0), ChainError, "every"),
        (lambda: GradientFlow().result, ChainError, "nothing yet"),
        (lambda: train(nn.Linear(4, 3), [GradientFlow()]), ChainError, "GradientFlow studies a Chain"),
    ],
)
def test_what_cannot_be_studied_is_told(call, error, match):
    with pytest.raises(error, match=match):
        call()
