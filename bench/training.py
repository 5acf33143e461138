"""Epochs of training: skipway.fit beside loops by hand and the training loops of other libraries.

    python bench/training.py [cnn] [mlp] [precision] [allocator] [--rounds 6] [--images 2560] [--quick]

Every contender trains the same net (equal numbers of parameters, which is checked) with Adam at the same learning rate
on the same images, in a process of its own. All processes are alive at once and take turns, an epoch each; only the one
whose turn it is computes. The first epoch of each (or more, until 30 steps are done), in which some compile and memory
is touched for the first time, is not counted; then every round times an epoch of each, in turning order. None evaluates
anything between epochs; at the end each tells its accuracy on 2,000 test images.

`cnn` and `mlp` leave the allocator of every process as it is; `allocator` repeats the smallest batch with glibc told
to keep freed memory, in all of them. `precision` is a ResNet-20 in bfloat16 and float32.

The images are the first ones of MNIST where that is there ($SKIPWAY_DATA), else of the 5,000 shipped with skipway.
Needs the peers (bench/peers.txt) in the environment that runs it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from process import Process
from record import Table, save
from skipway import data
from skipway.data import Split
from skipway.deploy.onednn import has_bf16
from skipway.errors import DataError

HERE = Path(__file__).parent
LIBRARIES = ["PyTorch Lightning", "skorch", "Keras (torch)", "Keras (jax)", "flax, jit", "flax, scan"]
ALL = ["skipway.fit", "skipway.fit, not recorded", "plain loop", "tuned by hand", *LIBRARIES]
NEEDS = {"PyTorch Lightning": "lightning", "Keras (torch)": "keras", "Keras (jax)": "keras", "flax, jit": "flax",
         "flax, scan": "flax", "skorch": "skorch"}  # fmt: skip
# nothing is recorded in bfloat16
PRECISION = ["skipway.fit, bf16", "skipway.fit, not recorded", "tuned by hand", "tuned by hand, bf16", "plain loop"]
CNN_GOALS = {"plain loop": 1.8, "PyTorch Lightning": 2.0, "Keras (torch)": 3.0, "Keras (jax)": 3.0, "flax, jit": 3.0}
MLP_GOALS = {"plain loop": 1.9, "PyTorch Lightning": 1.9, "flax, scan": 1.0}


Found = dict[str, list[float]]


class Data(NamedTuple):
    """Images to train on, to test on, and what to call the first."""

    train: Split
    test: Split
    name: str


def chosen(images: int) -> Data:
    """The first ``images`` of MNIST where it is there, else of the digits that come with skipway; and some to test."""
    try:
        train, test = data.mnist(download=False)
        name = f"the first {images:,} images of MNIST"
    except DataError:
        train, test = data.mnist(small=True)
        images = min(images, len(train) // 128 * 128)
        name = f"{images:,} of the 5,000 MNIST images that come with skipway"
    return Data(train.take(images), test.take(min(2000, len(test))), name)


def lay_down(chosen: Data, net: str, folder: Path) -> None:
    """Write the images as this net takes them: flat for an MLP, padded to 3x32x32 for a ResNet-20."""
    for split, before in ((chosen.train, ""), (chosen.test, "test_")):
        x = split.x.numpy()
        if net == "mlp":
            x = x.reshape(len(x), -1)
        if net == "resnet20":
            x = np.repeat(np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2))), 3, axis=1)
        np.save(folder / f"{before}x.npy", x)
        np.save(folder / f"{before}y.npy", split.y.numpy())


def contender(name: str, net: str, batch: int, folder: Path, options: Sequence[str]) -> Process:
    """The other end of ``contenders.turns``: a process that trains an epoch whenever it is told to."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, _path())])}
    command = [sys.executable, "-m", "contenders", name, net, str(batch), str(folder), *options]
    return Process(name, command, environment)


def run_epoch(one: Process) -> float:
    """Let a contender train for one epoch: the seconds that took."""
    start = time.perf_counter()
    one.say("go")
    one.hear("done")
    return time.perf_counter() - start


def _path() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)


def race(
    names: Sequence[str], net: str, batch: int, images: Data, rounds: int, options: Sequence[str]
) -> tuple[Found, dict[str, dict[str, str]], dict[str, str], int]:
    """Seconds per step of every contender, one figure a round; what is to be told of each; and why some have none."""
    found: Found = {}
    failed: dict[str, str] = {}
    more: dict[str, dict[str, str]] = {}
    alive: dict[str, Process] = {}
    sizes: dict[str, int] = {}
    steps = len(images.train) // batch

    def attempt(name: str, what: Any) -> Any:
        try:
            return what()
        except RuntimeError as error:
            failed[name] = str(error)
            alive.pop(name).close()
            return None

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lay_down(images, net, folder)
        for name in names:
            if name in NEEDS and find_spec(NEEDS[name]) is None:
                failed[name] = f"{NEEDS[name]} is not installed: see bench/peers.txt"
                continue
            alive[name] = contender(name, net, batch, folder, options)
            stack.callback(alive[name].close)
        for name in list(alive):
            sizes[name] = attempt(name, lambda one=alive[name]: one.hear("parameters"))
        sizes = {name: count for name, count in sizes.items() if count is not None}
        if len(set(sizes.values())) > 1:
            raise RuntimeError(f"not the same net: {sizes}")
        for _ in range(warm_up(names, steps)):
            for name in list(alive):
                attempt(name, lambda one=alive[name]: run_epoch(one))
        for round_ in range(rounds):
            order = list(alive)
            for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
                seconds = attempt(name, lambda one=alive[name]: run_epoch(one))
                if seconds is not None:
                    found.setdefault(name, []).append(seconds / steps)
            print(f"  {net}, batch {batch}: round {round_ + 1} of {rounds}", file=sys.stderr, flush=True)
        for name in list(alive):
            alive[name].say("end")
            accuracy = attempt(name, lambda one=alive[name]: one.hear("accuracy"))
            if accuracy is not None:
                epoch = sorted(found[name])[len(found[name]) // 2] * steps
                more[name] = {"s / epoch": f"{epoch:.2f}", "accuracy": f"{accuracy:.1%}"}
    found = {name: values for name, values in found.items() if name not in failed}
    return found, more, failed, next(iter(sizes.values()), 0)


def warm_up(names: Sequence[str], steps: int) -> int:
    """How many epochs of so many steps do not count: where fit records its steps and tries them, enough for 30."""
    return -(-30 // steps) if "skipway.fit" in names else 1


TABLES = {
    "cnn": ("A training step of the thread's CNN", [("cnn", 32), ("cnn", 128)], ALL, CNN_GOALS),
    "mlp": (
        "A training step of an MLP with shortcuts",
        [("mlp", 32), ("mlp", 128)],
        [*ALL[:2], "skipway.fit, compiled", *ALL[2:]],
        MLP_GOALS,
    ),
    "precision": (
        "A training step of ResNet-20, bfloat16 and float32",
        [("resnet20", 128)],
        PRECISION,
        {"skipway.fit, not recorded": 1.75, "tuned by hand": 1.75},
    ),
    "allocator": (
        "Training with an allocator that keeps freed memory, for all",
        [("cnn", 32), ("mlp", 32)],
        [name for name in ALL if name != "flax, scan"],  # which takes minutes for the CNN
        {},
    ),
}
NETS = {"cnn": "CNN", "mlp": "MLP", "resnet20": "ResNet-20"}


def size(key: str, asked: int | None, quick: bool) -> int:
    """How many images make an epoch, so that it takes a second or so."""
    if key != "precision":
        return asked or (640 if quick else 6400 if key == "mlp" else 2560)
    # without bfloat16 in the processor a step takes many seconds
    return asked or (128 if quick else 1024 if has_bf16() else 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", metavar="table", help=f"of {', '.join(TABLES)} (default: all)")
    parser.add_argument(
        "--rounds", type=int, help="epochs of every contender that count (default 6, of precision and allocator 4)"
    )
    parser.add_argument("--images", type=int, help="images in an epoch, a multiple of 128")
    parser.add_argument("--only", default="", help="the contenders whose name holds this, and skipway")
    parser.add_argument("--quick", action="store_true", help="to see that all works: few images, two rounds")
    options = parser.parse_args()
    if wrong := [name for name in options.tables if name not in TABLES]:
        parser.error(f"there is no table {wrong[0]!r}: choose of {', '.join(TABLES)}")
    if options.images and options.images % 128:
        parser.error("--images must be a multiple of 128, so that every batch is full")
    for key in options.tables or TABLES:
        title, cases, names, goals = TABLES[key]
        rounds = options.rounds or (2 if options.quick else 6 if key in ("cnn", "mlp") else 4)
        images = chosen(size(key, options.images, options.quick))
        names = [name for name in names if name == names[0] or options.only in name]
        goals = {name: goal for name, goal in goals.items() if name in names}
        table = Table(f"training-{key}", title, ours=names[0], unit="ms", quick=options.quick)
        if key == "precision" and not has_bf16():
            table.notes.append("This processor has no instructions for bfloat16: it is computed by way of float32.")
        for net, batch in cases:
            tuning = ["--keep-memory"] if key == "allocator" else []
            found, more, failed, parameters = race(names, net, batch, images, rounds, tuning)
            table.add(f"{NETS[net]}, batch {batch}", found, goals=goals, more=more, failed=failed)
            warm = warm_up(names, len(images.train) // batch)
            table.notes.append(
                f"{NETS[net]}, batch {batch}: {parameters:,} parameters in every contender; an epoch is {images.name}; "
                f"accuracy is that on {len(images.test):,} test images after {rounds + warm} epochs."
            )
            save(table)


if __name__ == "__main__":
    main()
