"""Recorded steps give what plain ones give, to the last bit, and are given up where they could not."""

import copy

import pytest
import torch
from torch import nn

import skipway as sw
from skipway import Chain, Conv, Dense, Flatten, MaxPool, Skip, TrainError, relu
from skipway.engines import use_engines
from skipway.gains import Anneal, Drop, ShakeDrop
from skipway.merges import Shake, Swapout
from skipway.train import recorded
from skipway.train.losses import logitcrossentropy
from skipway.train.recorded import Recorded, varying, watched
from skipway.zoo.densenet import block


def weights(net):
    return [*(p.detach() for p in net.parameters()), *net.buffers()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


def step_of(net, **options):
    """``Recorded`` steps of a net, with the cross-entropy."""

    def plain(x, y):
        for p in net.parameters():
            p.grad = None
        output = net(x)
        loss = logitcrossentropy(output, y)
        loss.backward()
        return output, loss

    return Recorded(net, logitcrossentropy, "logitcrossentropy", plain, **options)


def gradients(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


@pytest.fixture
def at_once(monkeypatch):
    """Steps are recorded as soon as they were timed, and whatever they gain."""
    monkeypatch.setattr(recorded, "FIRST", 0.0)
    monkeypatch.setattr(recorded, "COST", 0.0)


def classes(*shape, rows=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, *shape, generator=generator), torch.arange(rows) % 3


# -- the same numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_fit_ends_with_the_same_bits(quick, blobs, net, optimizer):
    """Batch norm, dropout, and a last batch that is larger than the others."""
    other = copy.deepcopy(net)
    one = quick(net, blobs, epochs=4, optimizer=optimizer, recorded=True)
    two = quick(other, blobs, epochs=4, optimizer=optimizer, recorded=False)
    assert same(net, other)
    assert [row["train_loss"] for row in one] == [row["train_loss"] for row in two]
    assert [row["train_accuracy"] for row in one] == [row["train_accuracy"] for row in two]


def test_so_it_does_with_images(quick):
    def cnn():
        torch.manual_seed(0)
        return Chain(
            Conv(1, 4, 3, relu, padding=1), MaxPool(2), Skip(Conv(4, 4, 3, relu, padding=1)), Flatten(), Dense(..., 3),
            input=(1, 8, 8),
        )  # fmt: skip

    one, two = cnn(), cnn()
    data = classes(1, 8, 8)
    quick(one, data, epochs=3, recorded=True)
    quick(two, data, epochs=3, recorded=False)
    assert same(one, two)


def test_so_it_does_in_float64_with_a_float_target(quick):
    x = torch.linspace(-1, 1, 40, dtype=torch.float64).unsqueeze(1)
    one = Chain(Dense(1, 8, torch.tanh), Skip(Dense(8, 8, torch.tanh)), Dense(8, 1)).double()
    two = copy.deepcopy(one)
    quick(one, (x, x.square()), epochs=5, recorded=True)
    quick(two, (x, x.square()), epochs=5, recorded=False)
    assert same(one, two)


VOCABULARY = {
    "add": {},
    "cat": {"merge": "cat"},
    "gate": {"merge": "gate"},
    "project": {"path": "project"},
    "rezero": {"scale": sw.Learned(0.0)},
    "drop": {"drop": Drop(0.5)},
    "drop, by element": {"drop": Drop(0.5, mode="element")},
    "drop, warming up": {"drop": Drop(0.5, warmup=10)},
    "shake-drop": {"drop": ShakeDrop(0.5)},
    "anneal": {"scale": Anneal(1.0, 0.0, steps=5)},
    "swapout": {"merge": Swapout(0.3, 0.3)},
    "shake": {"merge": Shake()},
}


@pytest.mark.parametrize("kind", VOCABULARY)
def test_every_kind_of_shortcut(quick, blobs, kind):
    """With random numbers and counted steps, which are tensors of the net and drawn by torch."""
    torch.manual_seed(0)
    net = Chain(Dense(4, 6, relu), Skip(Dense(6, 6, relu), **VOCABULARY[kind]), Dense(..., 3))
    assert not varying(net, "logitcrossentropy")
    other = copy.deepcopy(net)
    quick(net, blobs, epochs=3, recorded=True)
    quick(other, blobs, epochs=3, recorded=False)
    assert same(net, other)


def test_auto_is_the_same_wherever_it_switches(quick, blobs, net, at_once, monkeypatch):
    used = []
    play = Recorded._play
    monkeypatch.setattr(Recorded, "_play", lambda self, x, y: (used.append(1), play(self, x, y))[1])
    other = copy.deepcopy(net)
    quick(net, blobs, epochs=12, recorded="auto")
    quick(other, blobs, epochs=12, recorded=False)
    assert used
    assert same(net, other)


def test_a_run_that_was_broken_ends_with_the_same_bits(quick, blobs, net, tmp_path):
    other = copy.deepcopy(net)
    quick(net, blobs, epochs=4, recorded=True)
    half = copy.deepcopy(other)
    quick(half, blobs, epochs=2, recorded=True, run=tmp_path / "run")
    quick(other, blobs, epochs=4, recorded=False, run=tmp_path / "run", resume=True)
    assert same(net, other)


# -- when --------------------------------------------------------------------------------------------------------------


def test_few_steps_do_not_pay(blobs):
    x, y = blobs
    step = step_of(nn.Linear(4, 3), steps=20)
    for _ in range(20):
        step(x, y)
    assert step.straight is None
    assert step.why == "it does not pay for so few steps"


def test_many_steps_pay_if_they_are_faster(blobs, at_once, monkeypatch):
    x, y = blobs
    for faster in (True, False):
        took = iter(range(100_000))
        monkeypatch.setattr(recorded.time, "perf_counter", lambda took=took: float(next(took)))
        step = step_of(nn.Linear(4, 3), steps=10**6)
        plain = step._plain

        def counted(x, y, took=took, faster=faster, plain=plain):
            for _ in range(5 if faster else 0):
                next(took)
            return plain(x, y)

        play = step._play

        def slower(x, y, took=took, play=play):
            for _ in range(2):
                next(took)
            return play(x, y)

        step._plain, step._play = counted, slower
        for _ in range(60):
            step(x, y)
        assert (step.straight is not None) is faster
        assert step.why == "" if faster else "as it is" in step.why


def test_batches_of_another_shape_run_as_they_are(blobs):
    x, y = blobs
    net = nn.Linear(4, 3)
    step = step_of(net, always=True)
    step(x, y)
    step._play = None
    _, loss = step(x[:7], y[:7])
    assert torch.equal(loss, logitcrossentropy(net(x[:7]), y[:7]))


def test_what_a_callback_changed_is_seen_at_the_next_epoch(quick, blobs):
    """A layer frozen after the second epoch stays as it is, and one that is replaced is trained."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    other = copy.deepcopy(net)

    def freeze(state):
        if state.epoch == 2:
            state.net[0].requires_grad_(False)
        if state.epoch == 3:
            state.net[3] = nn.Tanh()

    quick(net, blobs, epochs=5, recorded=True, callbacks=[freeze])
    quick(other, blobs, epochs=5, recorded=False, callbacks=[freeze])
    assert same(net, other)
    assert not net[0].weight.requires_grad


def test_hooks_are_called(quick, blobs, net, at_once):
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    quick(net, blobs, epochs=12)
    assert len(calls) >= 36  # three batches an epoch


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (lambda x: x * 1.0, "layer '1' calls <lambda>, whose code is not known"),
        (nn.BatchNorm1d(4, momentum=None), "layer '1' averages over all batches, and counts them"),
        (type("Mine", (nn.Linear,), {"__module__": "mine"})(4, 4), "layer '1' is a Mine, whose code is not known"),
    ],
)
def test_what_is_not_known_is_not_recorded_unasked(layer, why):
    net = Chain(Dense(4, 4), layer, Dense(4, 3))
    step = step_of(net, steps=10**9)
    step.begin()
    assert step.why == why


def test_dense_blocks_are_left_to_their_engine():
    net = block(4, growth=12).build((16, 8, 8))
    assert varying(net, "mse") == "the net has dense blocks, which an engine may run"
    use_engines(net, "off")
    assert not varying(net, "mse")


def test_a_loss_of_ones_own_is_not_recorded_unasked():
    assert varying(nn.Linear(2, 2), "mine") == "the loss mine is not one of skipway's"
    assert varying(nn.Linear(2, 2), "mse") == ""


def test_ones_own_code_is_recorded_at_ones_word(quick, blobs):
    calls = []

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            calls.append(1)
            return self.fc(x)

    def loss(p, y):
        return nn.functional.cross_entropy(p, y, label_smoothing=0.1)

    net = Mine()
    other = copy.deepcopy(net)
    quick(net, blobs, epochs=6, batch=30, recorded=True, loss=loss)
    # the look at the net, the first step, its recording, and the odd last batch of every epoch
    assert len(calls) < 12
    quick(other, blobs, epochs=6, batch=30, recorded=False, loss=loss)
    assert same(net, other)


# -- bad input ---------------------------------------------------------------------------------------------------------


class Varying(nn.Module):
    """Counts its calls in Python, so that no two forwards are alike."""

    def __init__(self):
        super().__init__()
        self.fc, self.count = nn.Linear(4, 3), 0.0

    def forward(self, x):
        self.count += 1.0
        return self.fc(x) * self.count


def test_numbers_that_are_not_the_same_are_told_and_nothing_is_lost(blobs):
    x, y = blobs
    torch.manual_seed(0)
    net = Chain(Dense(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), Varying())
    step = step_of(net, always=True)
    other = copy.deepcopy(net)
    torch.manual_seed(1)
    with pytest.raises(TrainError, match=r"recorded=True: .*not the same to the last bit"):
        step(x, y)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    logitcrossentropy(other(x), y).backward()
    assert torch.equal(after, torch.get_rng_state())
    assert same(net, other)
    assert all(torch.equal(a, b) for a, b in zip(gradients(net), gradients(other), strict=True))


def test_unasked_they_are_just_not_recorded(blobs, at_once, monkeypatch):
    x, y = blobs
    monkeypatch.setattr(recorded, "varying", lambda net, loss: "")
    step = step_of(Varying(), steps=10**9)
    step.begin()
    for _ in range(30):
        step(x, y)
    assert step.straight is None
    assert step.why == "its numbers are not the same to the last bit"


def test_a_failure_of_the_tracer_is_told(blobs, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such\n operator")

    monkeypatch.setattr(recorded, "_written", broken)
    with pytest.raises(TrainError, match=r"cannot be recorded, RuntimeError: no such operator\. Leave recorded out"):
        step_of(nn.Linear(4, 3), always=True)(*blobs)


def test_large_steps_are_not_recorded(blobs, monkeypatch):
    monkeypatch.setattr(recorded, "LARGE", 100)
    with pytest.raises(TrainError, match="its values take 0 MB, beside which Python's time is nothing"):
        step_of(nn.Linear(4, 3), always=True)(*blobs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recorded": "yes"}, "recorded must be \"auto\", True or False, not 'yes'"),
        ({"recorded": True, "precision": "bf16"}, 'not for precision="bf16": leave one out'),
        ({"recorded": True, "compile": True}, "not for compile=True: leave one out"),
    ],
)
def test_options_that_cannot_be(quick, blobs, net, options, message):
    before = copy.deepcopy(net)
    with pytest.raises(TrainError, match=message):
        quick(net, blobs, **options)
    assert same(net, before)


def test_a_loss_that_is_not_finite_stops_a_recorded_run(quick, blobs):
    x, y = blobs
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    messages = []
    for record in (True, False):
        twin = copy.deepcopy(net)
        with pytest.raises(TrainError, match="not finite") as error:
            quick(twin, (x * 1e18, y), epochs=50, lr=1e18, optimizer="sgd", recorded=record)
        messages.append((str(error.value), [w.clone() for w in weights(twin)]))
    assert messages[0][0] == messages[1][0]
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(messages[0][1], messages[1][1], strict=True))


def test_torch_watching_what_is_called_speaks_against_it(blobs):
    step = step_of(nn.Linear(4, 3), steps=10**9)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        step.begin()
    assert step.why == "torch watches what is called"
    step = step_of(nn.Linear(4, 3), steps=10**9)
    with torch.autocast("cpu"):
        step.begin()
    assert step.why == "autocast is on around it"


def test_an_option_of_a_layer_that_a_callback_changes_holds_from_the_next_epoch(quick, blobs, net):
    other = copy.deepcopy(net)

    def less(state):
        state.net[3].p = 0.5 / state.epoch

    quick(net, blobs, epochs=4, recorded=True, callbacks=[less])
    quick(other, blobs, epochs=4, recorded=False, callbacks=[less])
    assert same(net, other)


def test_a_net_that_changes_all_the_time_is_not_recorded_again_and_again(quick, blobs, net, at_once, monkeypatch):
    count = []
    record = Recorded._record
    monkeypatch.setattr(Recorded, "_record", lambda self, x, y: (count.append(1), record(self, x, y))[1])

    def less(state):
        state.net[3].p = 0.5 / state.epoch

    quick(net, blobs, epochs=12, batch=3, callbacks=[less])
    assert len(count) == recorded.CHANGES + 1


def test_a_step_is_recorded_once_where_nothing_changes(quick, blobs, monkeypatch):
    """No attribute of a chain changes with its forwards."""
    count = []
    record = Recorded._record
    monkeypatch.setattr(Recorded, "_record", lambda self, x, y: (count.append(1), record(self, x, y))[1])
    net = Chain(Dense(4, 8), sw.BatchNorm(), relu, Skip(Dense(8, 8, relu), drop=Drop(0.2, warmup=5)), Dense(8, 3))
    quick(net, blobs, epochs=5, recorded=True)
    assert len(count) == 1


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_parameters_are_called(quick, blobs, net, at_once, hook):
    calls = []
    getattr(net[0].weight, hook)(lambda _: calls.append(1))
    quick(net, blobs, epochs=12)
    assert len(calls) == 36
    with pytest.raises(TrainError, match="layer '0' has hooks on a parameter"):
        quick(net, blobs, recorded=True)


def test_nets_that_run_in_a_way_of_their_own_are_left_to_it():
    assert "DataParallel" in watched(nn.DataParallel(nn.Linear(2, 2)))
    assert watched(torch.compile(nn.Linear(2, 2), backend="eager"))
