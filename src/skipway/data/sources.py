"""Where the datasets come from, and what their files must hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class File(NamedTuple):
    """One file of a dataset.

    ``md5`` is that of the file as the mirrors serve it. ``content`` is the md5 of what is inside (of the unpacked
    file): by it a good copy is also known when somebody unpacked it, or packed it again.
    """

    name: str
    md5: str
    content: str


@dataclass(frozen=True)
class Source:
    """A public dataset: its mirrors (address prefixes), its files and their folder under the root.

    ``archive`` is the name and md5 of the one file that the mirrors serve in place of the files, where there is one.
    ``mean`` and ``std`` are of the whole training part in [0, 1], a channel each: the numbers the field uses.
    """

    name: str
    folder: str
    mirrors: tuple[str, ...]
    files: tuple[File, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    archive: tuple[str, str] | None = None


def idx_files(*md5s: tuple[str, str]) -> tuple[File, ...]:
    """The four files that MNIST and its likes have, with these md5s (packed, unpacked)."""
    names = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    return tuple(File(name, *pair) for name, pair in zip(names, md5s, strict=True))


# The md5s of the packed files and of CIFAR-10's are those that torchvision publishes.
MNIST = Source(
    name="mnist",
    folder="MNIST/raw",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    files=idx_files(
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    ),
    classes=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    mean=(0.1307,),
    std=(0.3081,),
)

FASHION_MNIST = Source(
    name="fashion-mnist",
    folder="FashionMNIST/raw",
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    files=idx_files(
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
        ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
        ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mean=(0.2860,),
    std=(0.3530,),
)

CIFAR10 = Source(
    name="cifar10",
    folder="cifar-10-batches-py",
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    archive=("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    files=tuple(
        File(name, md5, md5)
        for name, md5 in (
            ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
            ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            ("data_batch_4", "634d18415352ddfa80567beed471001a"),
            ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ("test_batch", "40351d587109b95175f43aff81a1287e"),
            ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        )
    ),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
