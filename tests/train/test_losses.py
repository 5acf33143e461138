import functools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skipway.errors import DataError, TrainError
from skipway.train import crossentropy, ends_in_softmax, logitcrossentropy, mse, nll
from skipway.train.losses import choose_loss, count_correct

seeds = st.integers(0, 2**31)


@settings(max_examples=30)
@given(seeds, st.integers(1, 6), st.integers(2, 5), st.floats(0.1, 20))
def test_both_cross_entropies_agree_with_torch(seed: int, rows: int, classes: int, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    z = (torch.randn(rows, classes, generator=g) * scale).double()
    y = torch.randint(0, classes, (rows,), generator=g)
    expected = F.cross_entropy(z, y)
    torch.testing.assert_close(logitcrossentropy(z, y), expected)
    torch.testing.assert_close(crossentropy(z.softmax(-1), y), expected)
    torch.testing.assert_close(nll(z.log_softmax(-1), y), expected)


@settings(max_examples=30)
@given(seeds, st.integers(2, 5))
def test_onehot_targets_mean_the_same_as_labels(seed: int, classes: int) -> None:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(7, classes, generator=g).double()
    y = torch.randint(0, classes, (7,), generator=g)
    for loss, p in ((logitcrossentropy, z), (crossentropy, z.softmax(-1)), (nll, z.log_softmax(-1))):
        for hot in (F.one_hot(y, classes), F.one_hot(y, classes).float()):
            torch.testing.assert_close(loss(p, hot), loss(p, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("soft", [False, True])
def test_crossentropy_is_finite_at_zero_in_value_and_gradient(dtype: torch.dtype, soft: bool) -> None:
    p = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([[1.0, 0.0], [0.5, 0.5]]) if soft else torch.tensor([0, 0])
    loss = crossentropy(p, y)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 10
    assert torch.isfinite(p.grad).all()


def test_crossentropy_of_certainty_is_exactly_zero() -> None:
    assert crossentropy(torch.eye(3), torch.arange(3)).item() == 0.0


def test_a_tiny_probability_still_pulls_on_the_logits() -> None:
    # with an epsilon of 1e-7 inside the log this gradient would be gone
    z = torch.tensor([[-40.0, 0.0]], requires_grad=True)
    crossentropy(z.softmax(-1), torch.tensor([0])).backward()
    torch.testing.assert_close(z.grad, torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize("loss", [crossentropy, logitcrossentropy])
def test_classes_may_be_on_axis_1_or_last(loss: object) -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.rand(2, 5, 3, generator=g).softmax(-1)
    y = torch.randint(0, 3, (2, 5), generator=g)
    torch.testing.assert_close(loss(z, y), loss(z.movedim(-1, 1), y))  # type: ignore[operator]
    torch.testing.assert_close(loss(z, y), loss(z.reshape(10, 3), y.reshape(10)))  # type: ignore[operator]


def test_one_row_without_a_batch_axis() -> None:
    z = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(logitcrossentropy(z, torch.tensor(2)), F.cross_entropy(z, torch.tensor(2)))


@pytest.mark.parametrize("loss", [crossentropy, logitcrossentropy, nll])
def test_targets_that_do_not_fit_are_named_with_both_shapes(loss: object) -> None:
    with pytest.raises(DataError, match=r"\(4, 1\).*\(4, 3\).*y.squeeze\(-1\)"):
        loss(torch.rand(4, 3), torch.zeros(4, 1).long())  # type: ignore[operator]
    with pytest.raises(DataError, match="labels run from 0 to 3, and the net has 3 outputs"):
        loss(torch.rand(4, 3), torch.arange(4))  # type: ignore[operator]


def test_mse_never_broadcasts() -> None:
    with pytest.raises(DataError, match=r"y.unsqueeze\(-1\)"):
        mse(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(DataError, match=r"y.long\(\)"):
        mse(torch.zeros(4, 10), torch.zeros(4))
    assert mse(torch.zeros(4), torch.full((4,), 3.0)).item() == 9.0


class Act(nn.Module):
    def __init__(self, act: object) -> None:
        super().__init__()
        self.act = act


class Plain(nn.Module):
    def __init__(self, fn: object) -> None:
        super().__init__()
        self.fn = fn


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


LIN = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Sequential(LIN, nn.Softmax(-1)), True),
        (nn.Sequential(LIN, nn.Sequential(nn.ReLU(), nn.Softmax(-1)), nn.Identity()), True),
        (nn.Sequential(LIN, nn.Softmax2d(), nn.Flatten()), True),
        (nn.Sequential(LIN, Act(softmax)), True),
        (nn.Sequential(LIN, Act(nn.Softmax(-1))), True),
        (Act(torch.softmax), True),
        (Plain(F.softmax), True),
        (Plain(functools.partial(F.softmax, dim=-1)), True),
        (nn.DataParallel(nn.Sequential(LIN, nn.Softmax(-1))), True),
        (nn.Sequential(nn.Softmax(-1), LIN), False),
        (nn.Sequential(LIN, nn.LogSoftmax(-1)), False),
        (nn.Sequential(LIN, Act(torch.relu)), False),
        (nn.Sequential(LIN, Act(None)), False),
        (nn.Sequential(), False),
        (LIN, False),
    ],
)
def test_ends_in_softmax(module: nn.Module, expected: bool) -> None:
    assert ends_in_softmax(module) is expected


def test_softmax_inside_a_module_is_not_taken_for_its_end() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(2, 2)
            self.softmax = nn.Softmax(-1)

    assert not ends_in_softmax(nn.Sequential(Attention()))


LABELS, FLOATS = torch.tensor([0, 1]), torch.tensor([0.5, 1.0])
PROBABILITIES, LOGITS = nn.Sequential(LIN, nn.Softmax(-1)), nn.Sequential(LIN)
LOGS = nn.Sequential(LIN, nn.LogSoftmax(-1))


@pytest.mark.parametrize(
    ("loss", "net", "y", "expected"),
    [
        ("auto", PROBABILITIES, LABELS, "crossentropy"),
        ("auto", LOGITS, LABELS, "logitcrossentropy"),
        ("auto", LOGS, LABELS, "nll"),
        ("auto", LOGITS, FLOATS, "mse"),
        ("auto", PROBABILITIES, FLOATS, "mse"),
        (crossentropy, PROBABILITIES, LABELS, "crossentropy"),
        (F.cross_entropy, PROBABILITIES, LABELS, "cross_entropy"),
    ],
)
def test_the_loss_is_chosen_by_targets_and_ending(loss: object, net: nn.Module, y: torch.Tensor, expected: str) -> None:
    assert choose_loss(loss, net, y)[0] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "net", "fix"),
    [
        ("logitcrossentropy", PROBABILITIES, "loss='crossentropy', or take the softmax off"),
        (logitcrossentropy, PROBABILITIES, "loss='crossentropy', or take the softmax off"),
        ("crossentropy", LOGITS, r"loss='logitcrossentropy', or end the net in nn.Softmax\(-1\)"),
        ("crossentropy", LOGS, "loss='nll', or take the log-softmax off"),
        ("logitcrossentropy", LOGS, "loss='nll'"),
        ("nll", LOGITS, r"loss='logitcrossentropy', or end the net in nn.LogSoftmax\(-1\)"),
    ],
)
def test_a_loss_of_the_wrong_kind_is_refused_with_the_fix(loss: object, net: nn.Module, fix: str) -> None:
    with pytest.raises(TrainError, match=fix):
        choose_loss(loss, net, LABELS)  # type: ignore[arg-type]


def test_correct_targets_are_counted() -> None:
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    y = torch.tensor([0, 1, 1])
    for target in (y, F.one_hot(y, 2)):
        counted = count_correct(p, target, "crossentropy")
        assert counted is not None
        assert (int(counted[0]), counted[1]) == (2, 3)
    assert count_correct(p, p, "mse") is None
    assert math.isclose(crossentropy(p, y).item(), -(math.log(0.9) + math.log(0.8) + math.log(0.4)) / 3, rel_tol=1e-6)
