import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from skipway.errors import DataError, SkipwayError, TrainError
from skipway.train import History, evaluate, fit

Fit = Callable[..., History]
X, Y = torch.randn(12, 4), torch.arange(12) % 3
HOLES = X.clone()
HOLES[[5, 7], [0, 1]] = torch.tensor([float("nan"), float("inf")])
DATA = (X, Y)


def lin(out: int = 3) -> nn.Module:
    return nn.Linear(4, out)


BAD_DATA: list[tuple[Any, str]] = [
    ((X[:0], Y[:0]), r"train: the data set is empty .*\(0, 4\)"),
    ((X, Y[:7]), "train: x has 12 rows and y has 7"),
    ((X, Y + 1), "labels run from 1 to 3, and the net has 3 outputs: labels must be 0 to 2; .*subtract 1"),
    ((X, Y * 2), "labels run from 0 to 4.*0 to 2"),
    ((X, Y - 1), "labels run from -1 to 1"),
    ((HOLES, Y), "x holds 2 values .* in 2 of 12 rows, the first in row 5"),
    ((X, torch.full((12, 1), float("nan"))), "train: y holds 12 values"),
    ((X.long(), Y), r"torch.int64.*x.float\(\)"),
    ((X.double(), Y), r"torch.float64.*x.float\(\)"),
    ((X[:, :3], Y), r"cannot take one row of x, shape \(1, 3\)"),
    ((X, Y.unsqueeze(1)), r"y.squeeze\(-1\)"),
    ((X, Y.float()), r"y.long\(\)"),
    ((X, X), r"targets have shape \(1, 4\) and the output has \(1, 3\)"),
    ((X.numpy(), Y), r"numpy.ndarray.*torch.from_numpy\(x\)"),
    ((X, Y.tolist()), r"y is a builtins.list.*torch.as_tensor\(y\)"),
    ((X, torch.tensor(1)), "y is a single number"),
    ((X, Y, Y), "got 3 things"),
    (7, "cannot train on a int"),
    (DataLoader(TensorDataset(X, Y + 1), batch_size=4), "train: batch 0: labels run from 1 to 3"),
    (DataLoader(TensorDataset(X, Y, Y), batch_size=4), "pair"),
    (DataLoader(TensorDataset(X[:, :3], Y), batch_size=4), "cannot take one row"),
    (TensorDataset(X[:0], Y[:0]), "empty"),
]


@pytest.mark.parametrize(("data", "said"), BAD_DATA, ids=[said for _, said in BAD_DATA])
def test_data_that_cannot_be_trained_on(data: Any, said: str, quick: Fit) -> None:
    net = lin()
    before = copy.deepcopy(net.state_dict())
    batch = None if isinstance(data, DataLoader) else 4
    with pytest.raises(DataError, match=said) as caught:
        quick(net, data, batch=batch)
    assert len(str(caught.value).splitlines()) == 1 or "cannot take" in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(("data", "said"), [(d, s) for d, s in BAD_DATA if s.startswith(("x holds", "labels"))])
def test_the_test_split_and_evaluate_are_checked_alike(data: Any, said: str, quick: Fit) -> None:
    with pytest.raises(DataError, match="test: .*" + said):
        quick(lin(), DATA, data, batch=4)
    with pytest.raises(DataError, match="data: .*" + said):
        evaluate(lin(), data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 13}, "batch=13 is larger than the data set of 12 rows"),
        ({"batch": 0}, "batch must be a whole number of at least 1, not 0"),
        ({"batch": -4}, "batch must be"),
        ({"batch": 2.5}, "batch must be"),
        ({"batch": None}, "batch= is missing"),
        ({"epochs": 0}, "epochs must be"),
        ({"epochs": True}, "epochs must be"),
        ({"lr": 0}, "lr must be a number above 0"),
        ({"lr": -0.1}, "lr must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"lr": float("inf")}, "lr must be"),
        ({"lr": None}, "lr= is missing"),
        ({"seed": -1}, "seed must be"),
        ({"optimizer": "adaw"}, "optimizer='adaw' is not known: did you mean 'adamw'"),
        ({"optimizer": 3}, "optimizer=3: wanted"),
        ({"optimizer": lambda parameters: None}, "gave a NoneType"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"optimizer": torch.optim.SGD(lin().parameters(), 0.1)}, "none of the parameters of this net"),
        ({"loss": "crossentrpy"}, "loss='crossentrpy' is not known: did you mean 'crossentropy'"),
        ({"loss": 5}, "loss=5 is not known"),
        ({"precision": "bf61"}, "precision='bf61' is not known: did you mean 'bf16'"),
        ({"device": "cdua"}, "device='cdua' is not known: did you mean 'cuda'"),
        ({"device": 3.5}, "device=3.5 is not known"),
        ({"resume": True}, "give run="),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else "",
)
def test_options_that_cannot_be(options: dict[str, Any], said: str, quick: Fit) -> None:
    with pytest.raises(TrainError, match=said):
        quick(lin(), DATA, **{"batch": 4, **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
def test_a_device_that_is_not_there(quick: Fit) -> None:
    with pytest.raises(TrainError, match="device='cuda' is not on this machine, which has"):
        quick(lin(), DATA, batch=4, device="cuda")


def frozen() -> nn.Module:
    return lin().requires_grad_(False)


def broken() -> nn.Module:
    net = nn.Sequential(lin())
    net[0].bias.data[1] = float("nan")
    return net


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.ReLU(), "no trainable parameters: it holds no parameters"),
        (frozen(), "all 2 have requires_grad=False"),
        (broken(), "parameter '0.bias' is not finite before the first step"),
        (lambda x: x, "is a function, not a torch.nn.Module"),
        (nn.Sequential(nn.LazyLinear(3)), "lazy parameters"),
    ],
)
def test_nets_that_cannot_train(net: Any, said: str, quick: Fit) -> None:
    with pytest.raises(TrainError, match=said):
        quick(net, DATA, batch=4)


def test_a_net_that_returns_two_things(quick: Fit) -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(DataError, match="returns a tuple"):
        quick(Two(4, 3), DATA, batch=4)


def test_batch_norm_and_batches_of_one_row(net: nn.Module, blobs: Any, quick: Fit) -> None:
    with pytest.raises(TrainError, match="batch=2 or more"):
        quick(net, blobs, batch=1)


def test_another_batch_than_the_loaders(quick: Fit) -> None:
    with pytest.raises(TrainError, match="batch=5, and the DataLoader makes batches of 4"):
        quick(lin(), DataLoader(TensorDataset(X, Y), batch_size=4), batch=5)


def test_an_error_of_the_chain_itself_comes_through_as_it_is(quick: Fit) -> None:
    class Picky(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise mine

    mine = SkipwayError("the shortcut 'a->b' ...")
    with pytest.raises(SkipwayError) as caught:
        quick(Picky(4, 3), DATA, batch=4)
    assert caught.value is mine


def test_checking_moves_neither_statistics_nor_random_state(net: nn.Module, blobs: Any) -> None:
    before = copy.deepcopy(net.state_dict()), torch.get_rng_state(), [m.training for m in net.modules()]
    with pytest.raises(DataError, match="0 to 2"):
        fit(net, (blobs[0], blobs[1] + 1), epochs=1, batch=20, lr=0.1, device="cpu")
    assert all(torch.equal(v, before[0][k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert [m.training for m in net.modules()] == before[2]


def test_the_wrong_loss_for_the_end_is_caught_before_the_first_step(quick: Fit) -> None:
    for net, loss in (
        (nn.Sequential(lin(), nn.Softmax(-1)), "logitcrossentropy"),
        (nn.Sequential(lin()), "crossentropy"),
    ):
        before = copy.deepcopy(net.state_dict())
        with pytest.raises(TrainError, match="train with loss="):
            quick(net, DATA, batch=4, loss=loss)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_text_as_labels_inside_a_whole_number_net(quick: Fit) -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randint(0, 9, (12, 2))
    assert len(quick(net, (x, Y), batch=4)) == 2
    with pytest.raises(DataError, match=r"cannot take one row|whole numbers"):
        quick(net, (x + 20, Y), batch=4)


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [(print, r"not a list"), (None, r"NoneType, not a list"), ([print, 3], r"callbacks\[1\] is a int.*on_step")],
)
def test_callbacks_that_could_not_be_called(callbacks: Any, said: str) -> None:
    with pytest.raises(TrainError, match=said):
        fit(nn.Linear(4, 3), (torch.rand(6, 4), torch.arange(6) % 3), epochs=1, batch=3, lr=0.1, callbacks=callbacks)


def test_a_run_folder_that_is_no_name() -> None:
    with pytest.raises(TrainError, match="run is a int"):
        fit(nn.Linear(4, 3), (torch.rand(6, 4), torch.arange(6) % 3), epochs=1, batch=3, lr=0.1, run=3)  # type: ignore[arg-type]
