"""One contender: ``python -m contenders NAME NET BATCH FOLDER``, as bench/training.py starts it."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from contenders.turns import Job, Turns, arrays, keep_memory

#: the file of every contender; only this one is imported, with the libraries that it needs
HOMES = {
    "skipway.fit": "torch_loops", "skipway.fit, bf16": "torch_loops", "skipway.fit, compiled": "torch_loops",
    "skipway.fit, not recorded": "torch_loops",
    "plain loop": "torch_loops", "plain loop, bf16": "torch_loops",
    "tuned by hand": "torch_loops", "tuned by hand, bf16": "torch_loops",
    "PyTorch Lightning": "torch_peers", "skorch": "torch_peers",
    "Keras (torch)": "keras_fit", "Keras (jax)": "keras_fit",
    "flax, jit": "flax_loops", "flax, scan": "flax_loops",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender", choices=HOMES)
    parser.add_argument("net", choices=("cnn", "mlp", "resnet20"))
    parser.add_argument("batch", type=int)
    parser.add_argument("folder", type=Path, help="where the images lie")
    parser.add_argument("--keep-memory", action="store_true", help="tune the allocator of this process")
    options = parser.parse_args()
    turns = Turns()
    if options.keep_memory:
        keep_memory()
    home = importlib.import_module(f"contenders.{HOMES[options.contender]}")
    home.run(Job(options.contender, options.net, options.batch, **arrays(options.folder)), turns)


if __name__ == "__main__":
    main()
