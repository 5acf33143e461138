"""Make ``mnist-small.npz``, the subset of MNIST that comes with skipway, from the original files.

    python scripts/make_mnist_small.py --mnist FOLDER [--out FILE]

FOLDER holds the four files of MNIST (``train-images-idx3-ubyte.gz``, ...), packed or unpacked; they are checked. The
outcome is the same byte for byte on every run with one zlib; with another zlib (zlib-ng) only the packing may differ.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np

from skipway.data.files import read_idx
from skipway.data.sources import MNIST

SEED = 1998
TRAIN_A_CLASS, TEST_A_CLASS = 500, 100
ASSET = Path(__file__).resolve().parent.parent / "src" / "skipway" / "assets" / "mnist-small.npz"


def draw(labels: np.ndarray, a_class: int, seed: int) -> np.ndarray:
    """Positions (uint16, rising) of ``a_class`` examples of every class, drawn at random."""
    # RandomState and not default_rng: numpy promises that its stream never changes.
    random = np.random.RandomState(seed)
    drawn = [random.permutation(np.flatnonzero(labels == c))[:a_class] for c in range(10)]
    return np.sort(np.concatenate(drawn)).astype(np.uint16)


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays as an .npz without the time or the machine in it, which numpy's own would hold."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            z.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()


def subset(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of ``mnist-small.npz``: ``x``, ``y`` and ``index`` (the position in the original) of either part."""
    arrays = {}
    for part, a_class, (images, labels) in (
        ("train", TRAIN_A_CLASS, MNIST.files[:2]),
        ("test", TEST_A_CLASS, MNIST.files[2:]),
    ):
        x, y = read_idx(folder, images), read_idx(folder, labels)
        index = draw(y, a_class, SEED)
        arrays |= {f"{part}_x": x[index], f"{part}_y": y[index], f"{part}_index": index}
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the subset of MNIST that comes with skipway.")
    parser.add_argument("--mnist", type=Path, required=True, metavar="FOLDER", help="folder with MNIST's four files")
    parser.add_argument("--out", type=Path, default=ASSET, metavar="FILE", help="where to write (default: the asset)")
    options = parser.parse_args()
    packed = pack(subset(options.mnist))
    options.out.write_bytes(packed)
    print(f"{options.out}: {len(packed):,} bytes")


if __name__ == "__main__":
    main()
