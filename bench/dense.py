"""Training DenseNet-BC (k = 12) on images of CIFAR's size: the dense block engine beside the usual ways.

    python bench/dense.py [--depths 40 70 100] [--batch 64] [--rounds 5] [--steps 2]
                          [--compiled] [--allocator] [--contiguous] [--quick]

A step is forward, cross-entropy and backward, in float32 and training mode. Contenders, all on the same weights:

- engine: what a chain does by itself; engine, recompute: the same without the bottlenecks kept;
- plain: the generated forward, `use_engines(net, "off")`: what one would write by hand;
- checkpointed: norm, relu and 1x1 convolution of every layer computed again in the backward
  (torch.utils.checkpoint over the concatenation, as the memory-efficient DenseNets of 1707.06990 and torchvision do);
- compiled, with --compiled: torch.compile of plain.

Every contender runs in a process of its own, so that none finds the memory that another one freed. All are alive at
once and take turns, in turning order; a turn is a step that does not count (what a process freed before it waited may
have gone back to the machine, or to the host of a virtual one, in between) and then --steps in a row, of which the
median is the figure of the round. Page faults a step tell how much memory was fetched anew. Memory is the peak of the
resident set over what the process had before its first step, two steps in a process for each contender, and beside it
the bytes that autograd kept between forward and backward. All nets and images are channels last, which is faster for
all; --contiguous leaves them contiguous. The allocator is left as it is; --allocator tells glibc in all processes to
keep freed memory.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import record
from process import Process
from skipway.compiling import compile_alone
from skipway.engines import use_engines
from skipway.zoo.densenet import cifar_densenet

CONTENDERS = ("engine", "engine, recompute", "plain", "checkpointed")
TIME_GOALS = {"plain": 1.5, "checkpointed": 1.5}
MEMORY_GOALS = {"plain": 3.5}
#: the depth whose goals these are
GOALS_AT = 100


class Checkpointed(nn.Module):
    """A DenseNet-BC of skipway, run as memory-efficient implementations do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        for name, part in self.net.named_children():
            x = self.block(part, x) if name.startswith("block") else part(x)
        return x

    def block(self, block: Any, x: Tensor) -> Tensor:
        features = [x]
        for layer in block:
            norm, relu, narrow, *rest = layer

            def bottleneck(*features: Tensor, parts: Any = (norm, relu, narrow)) -> Tensor:
                x = torch.cat(features, 1)
                for part in parts:
                    x = part(x)
                return x

            y = checkpoint(bottleneck, *features, use_reentrant=False)
            for part in rest:
                y = part(y)
            features.append(y)
        return torch.cat(features, 1)


def contender(name: str, net: nn.Module) -> nn.Module:
    """The net as a contender runs it."""
    net = copy.deepcopy(net)
    modes = {"engine": "auto", "engine, recompute": "recompute"}
    use_engines(net, modes.get(name, "off"))
    if name == "checkpointed":
        return Checkpointed(net)
    return compile_alone(net) if name == "compiled" else net


def made(depth: int, batch: int, contiguous: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """The net, images and labels."""
    torch.manual_seed(0)
    net, x = cifar_densenet(depth, 12, bottleneck=True), torch.randn(batch, 3, 32, 32)
    if not contiguous:
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return net, x, torch.randint(0, 10, (batch,))


def step(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A training step without the optimizer."""

    def once() -> None:
        net.zero_grad(set_to_none=False)
        F.cross_entropy(net(x), y).backward()

    return once


def kept(net: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps of a forward, parameters and input apart."""
    seen: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = net(x)
    apart = {t.untyped_storage().data_ptr() for t in (*net.parameters(), x)}
    del out
    return sum(size for at, size in seen.items() if at not in apart)


def keep_memory() -> None:
    """Tell glibc to give no freed memory back: no page faults, for whoever asks for the same again."""
    libc = ctypes.CDLL("libc.so.6")
    if libc.mallopt(-4, 0) != 1 or libc.mallopt(-1, 2**31 - 1) != 1:  # M_MMAP_MAX, M_TRIM_THRESHOLD
        raise SystemExit("mallopt refuses: this allocator cannot be told")


def resident(which: str) -> int:
    """Bytes of this process in memory now (VmRSS), or at most since the last :func:`forget` (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(which))


def forget() -> None:
    """Let the peak of the memory begin anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def memory_of(name: str, depth: int, options: argparse.Namespace) -> dict[str, int]:
    """Peak and kept bytes of one contender, measured in this very process."""
    net, x, y = made(depth, options.batch, options.contiguous)
    net = contender(name, net)
    step(net, x[:2], y[:2])()  # gradients, and what is loaded and prepared once
    gc.collect()
    forget()
    before = resident("VmRSS")
    for _ in range(2):
        step(net, x, y)()
    peak = resident("VmHWM") - before
    return {"peak": peak, "kept": 0 if name in ("compiled", "checkpointed") else kept(net, x)}


def command(what: str, name: str, depth: int, options: argparse.Namespace) -> list[str]:
    """This script as one contender: ``what`` is ``--one`` for its memory, ``--turns`` for its time."""
    given = [sys.executable, __file__, what, name, "--depths", str(depth), "--batch", str(options.batch)]
    given += ["--steps", str(options.steps)]
    return given + ["--allocator"] * options.allocator + ["--contiguous"] * options.contiguous


def memory(names: list[str], depth: int, options: argparse.Namespace) -> tuple[dict, dict, dict]:
    found: dict[str, list[float]] = {}
    more: dict[str, dict[str, str]] = {}
    failed: dict[str, str] = {}
    for name in names:
        done = subprocess.run(command("--one", name, depth, options), capture_output=True, text=True)
        if done.returncode:
            failed[name] = (done.stderr.strip().splitlines() or ["?"])[-1][:200]
            continue
        got = json.loads(done.stdout)
        found[name] = [got["peak"]]
        more[name] = {"kept MB": record.number(got["kept"] / 1e6)} if got["kept"] else {}
    return found, more, failed


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def take_turns(name: str, depth: int, options: argparse.Namespace) -> None:
    """One contender: a line of seconds and page faults a step for every line that comes in."""
    net, x, y = made(depth, options.batch, options.contiguous)
    once = step(contender(name, net), x, y)
    for _ in sys.stdin:
        once()
        seconds, before = [], faults()
        for _ in range(options.steps):
            start = time.perf_counter()
            once()
            seconds.append(time.perf_counter() - start)
        got = {"seconds": statistics.median(seconds), "faults": (faults() - before) / options.steps}
        print(json.dumps({"turn": got}), flush=True)


def times(names: list[str], depth: int, options: argparse.Namespace) -> tuple[dict, dict, dict]:
    """Seconds per step of every contender, one figure a round; its page faults; and why some have none."""
    found: dict[str, list[float]] = {}
    fetched: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        alive: dict[str, Process] = {}
        for name in names:
            alive[name] = Process(name, command("--turns", name, depth, options))
            stack.callback(alive[name].close)
        for round_ in range(-1, options.rounds):  # in the first, which does not count, some compile
            for name in [*names[round_ % len(names) :], *names[: round_ % len(names)]]:
                if name in failed:
                    continue
                try:
                    alive[name].say("go")
                    got = alive[name].hear("turn")
                except RuntimeError as error:
                    failed[name] = str(error)
                    continue
                if round_ >= 0:
                    found.setdefault(name, []).append(got["seconds"])
                    fetched.setdefault(name, []).append(got["faults"])
    found = {name: values for name, values in found.items() if name not in failed}
    more = {name: {"page faults": f"{statistics.median(fetched[name]):,.0f}"} for name in found}
    return found, more, failed


def difference() -> float:
    """The largest difference to plain of any gradient in float64, relative to the largest value of that gradient."""
    net, x, y = made(22, 4, True)
    grads = []
    for name in ("engine, recompute", "plain"):
        one = contender(name, net.double())
        step(one, x.double(), y)()
        grads.append([p.grad for p in one.parameters()])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*grads, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[40, 70, 100])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn that count")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too, which takes minutes")
    parser.add_argument("--allocator", action="store_true", help="keep freed memory, in all processes")
    parser.add_argument("--contiguous", action="store_true", help="nets and images as they are by default")
    parser.add_argument("--quick", action="store_true", help="smaller nets and batches: to see that it runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--turns", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.depths, options.batch, options.rounds = [16, 22, 28], 16, 2
    if options.allocator:
        keep_memory()
    if options.one:
        print(json.dumps(memory_of(options.one, options.depths[0], options)))
        return
    if options.turns:
        take_turns(options.turns, options.depths[0], options)
        return
    names = [*CONTENDERS, *["compiled"] * options.compiled]
    suffix = ("_allocator" if options.allocator else "") + ("_contiguous" if options.contiguous else "")
    allocator = "told to keep freed memory, in all processes" if options.allocator else "left as it is"
    notes = [
        f"DenseNet-BC, k = 12, batch {options.batch} of 32 x 32 images, float32, "
        + ("contiguous" if options.contiguous else "channels last")
        + "; a step is forward, loss and backward.",
        f"Allocator {allocator}; {torch.get_num_threads()} threads.",
        f"Engine and plain in float64: gradients differ by at most {difference():.0e} of their largest value.",
    ]
    deepest = max(options.depths)
    goals_at = deepest if options.quick else GOALS_AT
    table = record.Table(
        f"dense_memory{suffix}", "DenseNet training: memory", ours="engine", unit="MB", quick=options.quick
    )
    table.notes = [*notes, "Peak of the resident set over what it was before the first step, a process each."]
    for depth in options.depths:
        found, more, failed = memory(names, depth, options)
        goals = MEMORY_GOALS if depth == goals_at else {}
        table.add(f"BC-{depth}", found, goals=goals, more=more, failed=failed)
    record.save(table)
    table = record.Table(
        f"dense{suffix}", "DenseNet training: time per step", ours="engine", unit="ms", quick=options.quick
    )
    table.notes = [
        *notes,
        f"A process each, in turning order; a turn is {options.steps} steps in a row after one that does not count.",
        "Page faults: pages of memory fetched anew in a step. What that takes changes from minute to minute.",
    ]
    for depth in options.depths if options.quick else sorted({min(options.depths), deepest}):
        found, more, failed = times(names, depth, options)
        goals = TIME_GOALS if depth == goals_at else {}
        table.add(f"BC-{depth}", found, goals=goals, more=more, failed=failed)
    record.save(table)


if __name__ == "__main__":
    main()
