import copy
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from skipway.errors import TrainError
from skipway.train import History, State, evaluate, fit
from skipway.train.optimizers import make_optimizer

Fit = Callable[..., History]
Data = tuple[Tensor, Tensor]


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in a.state_dict().items())


class Pairs(Dataset):
    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data[0])

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.data[0][i], int(self.data[1][i])


class Split:
    def __init__(self, data: Data) -> None:
        self.x, self.y = data


class Stream(IterableDataset):
    def __init__(self, data: Data) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Data]:
        return iter(zip(*self.data, strict=True))


def test_it_learns(net: nn.Module, blobs: Data, quick: Fit) -> None:
    history = quick(net, blobs, blobs, epochs=30)
    assert len(history) == 30
    assert history[-1]["test_accuracy"] > 0.95
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert [row["epoch"] for row in history] == list(range(1, 31))


def test_one_step_is_the_step_written_by_hand(blobs: Data, quick: Fit) -> None:
    x, y = blobs
    net = nn.Linear(4, 3)
    hand = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(
        [{"params": [hand.weight]}, {"params": [hand.bias], "weight_decay": 0.0}], lr=0.01, fused=True
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        order = torch.randperm(61, generator=generator)
        for index in (order[:20], order[20:40], order[40:]):
            optimizer.zero_grad()
            F.cross_entropy(hand(x[index]), y[index]).backward()
            optimizer.step()
    quick(net, blobs, epochs=3)
    assert same(net, hand)


@pytest.mark.parametrize("make", [lambda d: TensorDataset(*d), Split, list, lambda d: (d[0], d[1].int())])
def test_tensors_in_any_dress_train_alike(net: nn.Module, blobs: Data, quick: Fit, make: Callable[..., Any]) -> None:
    other = copy.deepcopy(net)
    quick(net, blobs)
    quick(other, make(blobs))
    assert same(net, other)


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (Pairs, 20),
        (Stream, 20),
        (lambda d: DataLoader(Pairs(d), batch_size=20, shuffle=True), None),
        (lambda d: DataLoader(Pairs(d), batch_size=20, shuffle=True), 20),
        (lambda d: DataLoader(Stream(d), batch_size=20), None),
        (lambda d: DataLoader(Pairs(d), batch_size=20, shuffle=True, generator=torch.Generator().manual_seed(3)), None),
    ],
)
def test_loaders_train_and_repeat(
    net: nn.Module, blobs: Data, quick: Fit, make: Callable[..., Any], batch: int | None
) -> None:
    other = copy.deepcopy(net)
    history = quick(net, make(blobs), make(blobs), batch=batch, epochs=20)
    assert history[-1]["test_accuracy"] > 0.9
    torch.manual_seed(99)
    quick(other, make(blobs), make(blobs), batch=batch, epochs=20)
    assert same(net, other)


def test_the_seed_repeats_a_run_and_the_rest_of_the_world_does_not_matter(
    net: nn.Module, blobs: Data, quick: Fit
) -> None:
    nets = [copy.deepcopy(net) for _ in range(3)]
    for other, noise, seed in zip(nets, (1, 2, 1), (0, 0, 1), strict=True):
        torch.manual_seed(noise)
        quick(other, blobs, seed=seed)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_the_global_generator_and_the_modes_end_as_they_began(net: nn.Module, blobs: Data, quick: Fit) -> None:
    net.eval()
    net[2].train()
    before = [m.training for m in net.modules()], torch.get_rng_state()
    quick(net, blobs, blobs)
    assert [m.training for m in net.modules()] == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_named_optimizers_are_fused_and_learn(net: nn.Module, blobs: Data, quick: Fit, optimizer: str) -> None:
    made = make_optimizer(optimizer, net, 0.01)
    assert all(group["fused"] for group in made.param_groups)
    assert quick(net, blobs, blobs, optimizer=optimizer, epochs=15)[-1]["test_accuracy"] > 0.9


def test_weight_decay_leaves_biases_norms_and_gains_alone() -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.0))

    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2), Gain())
    net[2].bias.requires_grad_(False)
    decay = {id(p): g["weight_decay"] for g in make_optimizer("adamw", net, 0.1).param_groups for p in g["params"]}
    assert len(decay) == 6
    for name, p in net.named_parameters():
        if p.requires_grad:
            assert (decay[id(p)] > 0) == (p.dim() > 1), name


def test_optimizers_of_ones_own(blobs: Data, quick: Fit) -> None:
    nets = [nn.Linear(4, 3) for _ in range(4)]
    for other in nets[1:]:
        other.load_state_dict(nets[0].state_dict())
    quick(nets[0], blobs, lr=None, optimizer=torch.optim.RMSprop(nets[0].parameters(), lr=0.02))
    quick(nets[1], blobs, lr=None, optimizer=lambda parameters: torch.optim.RMSprop(parameters, lr=0.02))
    quick(nets[2], blobs, lr=0.02, optimizer=torch.optim.RMSprop)
    quick(nets[3], blobs, lr=0.03, optimizer=torch.optim.RMSprop)
    assert same(nets[0], nets[1])
    assert same(nets[0], nets[2])
    assert not same(nets[0], nets[3])


def test_bf16_computes_in_bfloat16_and_keeps_the_weights(blobs: Data, quick: Fit) -> None:
    seen = []

    class Look(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return x

    net = nn.Sequential(nn.Linear(4, 3), Look())
    history = quick(net, blobs, blobs, precision="bf16", epochs=20)
    assert set(seen) == {torch.bfloat16}
    assert net[0].weight.dtype == torch.float32
    assert history[-1]["test_accuracy"] > 0.9


def test_regression_has_no_accuracy(quick: Fit) -> None:
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    net = nn.Linear(1, 1)
    history = quick(net, (x, 2 * x.double()), (x, 2 * x), epochs=40, batch=8, lr=0.1)
    assert history[-1]["test_loss"] < 1e-4
    assert history[-1]["train_accuracy"] is None


def test_soft_targets(blobs: Data, quick: Fit) -> None:
    x, y = blobs
    labels, hot = nn.Linear(4, 3), nn.Linear(4, 3)
    hot.load_state_dict(labels.state_dict())
    a = quick(labels, (x, y), epochs=3)
    b = quick(hot, (x, F.one_hot(y, 3).float()), epochs=3, loss="logitcrossentropy")
    torch.testing.assert_close(labels.weight, hot.weight)
    assert a.to_dict()["train_accuracy"] == b.to_dict()["train_accuracy"]


@pytest.mark.parametrize("channels", [1, 2])
def test_images_train_as_by_hand_with_their_channels_last(quick: Fit, channels: int) -> None:
    x, y = torch.rand(24, channels, 8, 8), torch.arange(24) % 3
    strides = []

    class Look(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            strides.append(x.stride())
            return x

    net = nn.Sequential(
        Look(), nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    hand = copy.deepcopy(net)
    quick(net, (x.double(), y), epochs=2, batch=8, optimizer=lambda p: torch.optim.SGD(p, 0.1))
    assert set(strides) == {(64 * channels, 1, 8 * channels, channels)}
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for index in torch.randperm(24, generator=generator).split(8):
            hand.zero_grad()
            F.cross_entropy(hand(x[index].double()), y[index]).backward()
            with torch.no_grad():
                for p in hand.parameters():
                    p -= 0.1 * p.grad
    for a, b in zip(net.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_net_that_views_its_images_still_trains(quick: Fit) -> None:
    class View(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(len(x), -1)

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.view, self.side, self.head = View(), nn.Conv2d(2, 1, 1), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.view(x)) + self.side(x).mean()

    history = quick(Pixels(), (torch.rand(9, 2, 4, 4), torch.arange(9) % 2), batch=4)
    assert len(history) == 2


def test_a_lone_last_row_trains_with_batch_norm(net: nn.Module, blobs: Data, quick: Fit) -> None:
    sizes = []
    net.register_forward_hook(lambda m, args, out: sizes.append(len(out)) if m.training else None)
    quick(net, blobs, epochs=1, batch=20)
    assert sizes == [20, 20, 21]


def test_callbacks_see_the_state_and_can_stop(blobs: Data, quick: Fit) -> None:
    class Watch:
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.epochs: list[int] = []

        def on_step(self, state: State) -> None:
            assert state.loss is not None
            assert not state.loss.requires_grad
            self.steps.append(state.step)

        def __call__(self, state: State) -> None:
            self.epochs.append(state.epoch)
            assert len(state.history) == state.epoch
            state.stop = state.epoch == 3

    watch = Watch()
    history = quick(nn.Linear(4, 3), blobs, epochs=5, callbacks=[watch])
    assert watch.epochs == [1, 2, 3]
    assert watch.steps == list(range(1, 10))
    assert len(history) == 3
    assert len(quick(nn.Linear(4, 3), blobs, epochs=5, callbacks=[lambda state: True])) == 1


def test_callbacks_see_the_batch_of_the_step_and_no_batch_outlives_it(blobs: Data, quick: Fit) -> None:
    rows: list[Tensor] = []
    freed: list[weakref.ref[Tensor]] = []

    class Watch:
        def on_step(self, state: State) -> None:
            assert freed == [] or freed[-1]() is None
            rows.append(torch.cat([state.x, state.y[:, None]], 1))
            freed.append(weakref.ref(state.x))
            with torch.no_grad():
                assert F.cross_entropy(before(state.x), state.y) == state.loss
            before.load_state_dict(state.net.state_dict())

        def __call__(self, state: State) -> None:
            assert state.x is None
            assert state.y is None

    net = nn.Linear(4, 3)
    before = copy.deepcopy(net)
    quick(net, blobs, blobs, epochs=1, callbacks=[Watch()])
    assert [len(part) for part in rows] == [20, 20, 21]
    seen = {tuple(row) for row in torch.cat(rows).tolist()}
    assert seen == {tuple(row) for row in torch.cat([blobs[0], blobs[1][:, None]], 1).tolist()}
    assert freed[-1]() is None


def test_a_callback_that_fails_leaves_no_batch_behind(blobs: Data, quick: Fit) -> None:
    class Fails:
        def on_step(self, state: State) -> None:
            self.state = state
            raise ValueError("mine")

    fails = Fails()
    with pytest.raises(ValueError, match="mine"):
        quick(nn.Linear(4, 3), blobs, callbacks=[fails])
    assert fails.state.x is None


def test_a_callback_can_set_the_learning_rate(blobs: Data, quick: Fit) -> None:
    def freeze(state: State) -> None:
        for group in state.optimizer.param_groups:
            group["lr"] = 0.0
        weights.append(state.net.weight.detach().clone())

    weights: list[Tensor] = []
    quick(nn.Linear(4, 3), blobs, epochs=3, callbacks=[freeze])
    assert torch.equal(weights[0], weights[2])


def test_a_loss_of_ones_own(blobs: Data, quick: Fit) -> None:
    named, own = nn.Linear(4, 3), nn.Linear(4, 3)
    own.load_state_dict(named.state_dict())
    a = quick(named, blobs)
    b = quick(own, blobs, loss=lambda p, y: F.cross_entropy(p, y))
    assert same(named, own)
    assert a[-1]["train_accuracy"] == b[-1]["train_accuracy"]


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda p, y: F.cross_entropy(p, y, reduction="none"), r"shape \(20,\).*take its mean"),
        (lambda p, y: 3.0, "float, not a scalar tensor"),
        (lambda p, y: F.cross_entropy(p.detach(), y), r"detach\(\)"),
    ],
)
def test_a_loss_that_cannot_be_stepped_down(blobs: Data, quick: Fit, loss: Any, said: str) -> None:
    with pytest.raises(TrainError, match=said):
        quick(nn.Linear(4, 3), blobs, loss=loss)


def test_evaluate_is_the_mean_over_rows_and_moves_nothing(net: nn.Module, blobs: Data) -> None:
    x, y = blobs
    net.train()
    net[0].eval()
    before = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()], torch.get_rng_state()
    score = evaluate(net, blobs, batch=7)
    assert [m.training for m in net.modules()] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(torch.equal(v, before[0][k]) for k, v in net.state_dict().items())
    net.eval()
    z = net(x)
    assert score.loss == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-5)
    assert score.accuracy == pytest.approx((z.argmax(1) == y).float().mean().item())
    assert evaluate(net, blobs) == pytest.approx(score, rel=1e-5)
    assert evaluate(net, DataLoader(Pairs(blobs), batch_size=9)) == pytest.approx(score, rel=1e-5)


def test_the_rows_of_history_are_what_evaluate_measures(net: nn.Module, blobs: Data, quick: Fit) -> None:
    history = quick(net, blobs, blobs, epochs=1)
    assert (history[0]["test_loss"], history[0]["test_accuracy"]) == evaluate(net, blobs, batch=20)


def test_importing_costs_no_plotting_and_no_terminal() -> None:
    code = "import sys, skipway.train; print(*{'rich', 'matplotlib', 'safetensors'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_fit_is_what_the_package_calls_fit() -> None:
    assert callable(fit)
