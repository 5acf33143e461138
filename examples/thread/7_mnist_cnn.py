"""A convolutional network with shortcuts reads handwritten digits, on the CPU or a GPU alike.

The question: here is my MNIST network, convolutions and pools with a shortcut among them. It trains on the CPU and
crashes on the GPU. What did I miss?

On a GPU two things go wrong in networks put together by hand: some weights stay behind, because they live in an
object that the framework does not look into; or a tensor made during the forward pass is made on the CPU. A chain
has neither problem: it registers what its layers hold, and its forward makes no tensors but those the layers make.
`fit` takes the first device there is of CUDA, MPS and CPU, and moves network and data there.

    python 7_mnist_cnn.py           5,000 digits that come with skipway: 95.7 % right in 10 epochs of a second each
    python 7_mnist_cnn.py --full    all 60,000 (11 MB, downloaded once): 99.0 % after epoch 4, 99.3 % after epoch 10

Measured on two CPU cores, where an epoch of all 60,000 takes 10 seconds when nothing else runs.
"""

import argparse

import torch

from skipway import Chain, Conv, Dense, Flatten, MaxPool, Skip, data, fit, onecold, relu, softmax
from skipway.train import History, State


def make() -> Chain:
    return Chain(
        Conv(1, 8, 3, relu, padding=1),
        MaxPool(2),
        Conv(8, 32, 3, relu, padding=1),
        MaxPool(2),
        # the block of the original ResNet: two convolutions, the sum, then the activation (arXiv 1512.03385)
        Skip(Conv(32, 32, 3, relu, padding=1), Conv(32, 32, 3, padding=1), act=relu),
        # DenseNet's way of keeping what is there: the block's input stays beside its output (arXiv 1608.06993)
        Skip(Conv(32, 16, 3, relu, padding=1), merge="cat"),
        Flatten(),
        # `...` is whatever arrives; input= lets the chain work it out now, before an optimizer asks for the weights
        Dense(..., 10),
        softmax,
        input=(1, 28, 28),
    )


def main(full: bool = False, epochs: int = 10, batch: int = 128, lr: float = 2e-3) -> History:
    torch.manual_seed(0)
    net = make()
    print(net, "\n")

    train, test = data.mnist(small=not full)
    print(train, test, "", sep="\n")

    def cool(state: State) -> None:  # smaller steps every epoch: the last epochs polish what the first ones found
        for group in state.optimizer.param_groups:
            group["lr"] = lr * 0.75**state.epoch

    # the net ends in softmax, so loss="auto" takes the cross-entropy of probabilities
    history = fit(net, train, test, epochs=epochs, batch=batch, lr=lr, callbacks=[cool])
    where = next(net.parameters()).device
    print(f"\ntest accuracy {history[-1]['test_accuracy']:.2%} after {epochs} epochs on {where}")

    # the trained net is an ordinary module: which digits does it get wrong?
    net.eval()
    x, y = test[:1000]
    with torch.no_grad():
        told = onecold(net(x.to(where))).cpu()
    wrong = (told != y).nonzero().flatten().tolist()
    print(f"{len(wrong)} of the first {len(y):,} wrong:", end=" ")
    print(", ".join(f"a {int(y[i])} read as {int(told[i])}" for i in wrong[:5]), "..." if wrong[5:] else "")
    return history


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--full", action="store_true", help="all of MNIST, not the digits shipped inside")
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--lr", type=float, default=2e-3)
    results = main(**vars(options.parse_args()))
