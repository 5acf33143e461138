"""Inference: skipway.deploy.compile beside PyTorch, its compiler, ONNX Runtime and OpenVINO on the plain export.

    python bench/inference.py [resnet18 ...] [--batch 1 16 32] [--precision fp32 bf16] [--no-compile] [--quick]

By default all nets at batch 1 and 16 in float32 (and the MLP at 32). torch.compile with freezing builds for up
to two minutes a cell: `--no-compile` leaves it out. Each precision has a table of its own, written after every cell.

Every contender runs in this process on the same input, with as many threads as torch uses, interleaved round by round.
The others get the net as its author wrote it, exported for exactly this batch size. All take a tensor and give one,
the engines through arrays that share its memory. skipway gets the net, folds it, and picks an engine by itself
(`engine="auto"`): the column says which. All outputs are compared with those of the net in float32.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from record import Table, save
from skipway import Chain, Dense, Skip, relu, zoo
from skipway.deploy import compile
from skipway.deploy.onednn import has_bf16
from timing import interleaved


def mlp() -> Chain:
    """Eight dense layers of 256, each with a shortcut around it."""
    return Chain(*[Skip(Dense(256, 256, relu)) for _ in range(8)])


#: how each net is made, and its input
NETS: dict[str, tuple[Callable[[], Chain], tuple[int, ...]]] = {
    "mlp": (mlp, (256,)),
    "tabular_resnet": (lambda: zoo.make("tabular_resnet"), (8,)),
    "cifar_resnet20": (lambda: zoo.make("cifar_resnet20"), (3, 32, 32)),
    "cifar_densenet40_12": (lambda: zoo.make("cifar_densenet40_12"), (3, 32, 32)),
    "resnet18": (lambda: zoo.make("resnet18"), (3, 224, 224)),
    "repvgg_a0": (lambda: zoo.make("repvgg_a0"), (3, 224, 224)),
    "resnet50": (lambda: zoo.make("resnet50"), (3, 224, 224)),
    "densenet121": (lambda: zoo.make("densenet121"), (3, 224, 224)),
    "unet": (lambda: zoo.make("unet"), (1, 128, 128)),
}
#: how far ahead of every other
AHEAD = {"cifar_densenet40_12": 1.1, "densenet121": 1.1, "repvgg_a0": 1.1}
#: how far ahead of eager PyTorch, in float32
EAGER = {("densenet121", 1): 1.8, ("densenet121", 16): 1.8, ("cifar_resnet20", 1): 4.0}
#: a difference from the float32 net, relative to its largest output, that is more than rounding
CLOSE = {"fp32": 1e-3, "bf16": 0.2}
#: seconds a call above which a contender is not waited for
PATIENCE = 20.0


def trained(net: Chain) -> Chain:
    """A net as training would leave it: its norms are not the identity."""
    torch.manual_seed(0)
    for module in net.eval().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


# -- the others --------------------------------------------------------------------------------------------------------


def eager(net: Chain, x: Tensor, precision: str) -> Callable[[], Any]:
    net, x = as_precision(net, x, precision)
    return inference(lambda: net(x))


def channels_last(net: Chain, x: Tensor, precision: str) -> Callable[[], Any]:
    if x.dim() != 4:
        raise NotImplementedError("the input is no image")
    net, x = as_precision(net, x, precision)
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return inference(lambda: net(x))


def compiled(net: Chain, x: Tensor, precision: str) -> Callable[[], Any]:
    from torch._inductor import config

    net, x = as_precision(net, x, precision)
    if x.dim() == 4 and x.shape[1] > 1:  # it errs on one channel in that layout
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    torch._dynamo.reset()
    run = torch.compile(net, dynamic=False)
    with torch.no_grad(), config.patch(freezing=True):
        run(x)

    def call() -> Tensor:
        with torch.no_grad():
            return run(x)

    return call


def onnxruntime(net: Chain, x: Tensor, precision: str) -> Callable[[], Any]:
    import onnxruntime as ort

    made = torch.onnx.export(copy.deepcopy(net), (x,), dynamo=True, verbose=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    data = made.model_proto.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def openvino(net: Chain, x: Tensor, precision: str) -> Callable[[], Any]:
    import openvino as ov

    with torch.no_grad():
        model = ov.convert_model(torch.export.export(copy.deepcopy(net), (x,)))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
    }
    request = ov.compile_model(model, "CPU", options).create_infer_request()
    return lambda: torch.from_numpy(request.infer({0: x.numpy()}, share_inputs=True)[0])


OTHERS: dict[str, tuple[Callable[[Chain, Tensor, str], Callable[[], Any]], tuple[str, ...]]] = {
    "eager": (eager, ()),
    "channels last": (channels_last, ()),
    "torch.compile": (compiled, ()),
    "ONNX Runtime": (onnxruntime, ("onnx", "onnxscript", "onnxruntime")),
    "OpenVINO": (openvino, ("openvino",)),
}


def as_precision(net: Chain, x: Tensor, precision: str) -> tuple[Chain, Tensor]:
    net = copy.deepcopy(net)
    return (net.bfloat16(), x.bfloat16()) if precision == "bf16" else (net, x)


def inference(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


# -- a cell ------------------------------------------------------------------------------------------------------------


def measure(table: Table, name: str, batch: int, precision: str, others: list[str], budget: float) -> None:
    """Add the rows of one net at one batch size in one precision."""
    make, shape = NETS[name]
    net = trained(make())
    torch.manual_seed(1)
    x = torch.randn(batch, *shape)
    with torch.no_grad():
        expected = net(x)
    ways, failed, more = {}, {}, {}
    started = time.perf_counter()
    ours = compile(net, x, precision=precision, seconds=min(2.0, budget / 4))
    first = ours.candidates[0]
    more["skipway"] = {
        "engine": f"{first.name}{', ' + first.computes if first.computes != precision else ''}",
        "built in": f"{time.perf_counter() - started:.0f} s",
    }
    ways["skipway"] = lambda: ours(x)
    for other in others:
        build, needs = OTHERS[other]
        gone = [need for need in needs if find_spec(need) is None]
        if gone:
            failed[other] = f"needs {', '.join(gone)}"
            continue
        started = time.perf_counter()
        try:
            way = build(net, x, precision)
            more[other] = {"engine": "", "built in": f"{time.perf_counter() - started:.0f} s"}
            started = time.perf_counter()
            found = torch.as_tensor(way()).float()
            took = time.perf_counter() - started
        except NotImplementedError:
            continue
        except Exception as error:
            failed[other] = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
            continue
        apart = float((found - expected).abs().max() / expected.abs().max())
        if apart > CLOSE[precision]:
            failed[other] = f"differs by {apart:.0e}"
        elif took > PATIENCE:
            failed[other] = f"{took:.0f} s a call, not waited for"
        else:
            ways[other] = way
    # small nets in short turns, many of them: on virtual machines their times swing by half
    fast = took_ours(ours, x) < 0.005
    rounds = interleaved(ways, budget=3 * budget if fast else budget, seconds=0.004, least=7)
    ahead = 1.1 if name == "mlp" and batch == 32 else AHEAD.get(name, 1.0)
    goals = {other: ahead for other in ways if other != "skipway" and other != "eager"}
    if precision == "fp32" and (name, batch) in EAGER:
        goals["eager"] = EAGER[name, batch]
    more = {other: columns for other, columns in more.items() if other in ways}
    table.add(f"{name}, batch {batch}, {precision}", rounds, goals=goals, more=more, failed=failed)


def took_ours(ours: Callable[[Tensor], Any], x: Tensor) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    ours(x)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", default=list(NETS), metavar="net", help=", ".join(NETS))
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile (freezing)")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds to measure each cell")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="two small nets, to see that all works")
    args = parser.parse_args()
    unknown = [net for net in args.nets if net not in NETS]
    if unknown:
        parser.error(f"no net {unknown[0]!r}: there are {', '.join(NETS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    nets = ["mlp", "tabular_resnet"] if args.quick else args.nets
    others = [name for name in OTHERS if name != "torch.compile" or not (args.no_compile or args.quick)]
    for precision in args.precision:
        table = empty(precision, args.quick)
        if "torch.compile" not in others:
            table.notes.append("Without torch.compile (freezing).")
        for name in nets:
            for batch in args.batch or ([1] if args.quick else [1, 16, 32] if name == "mlp" else [1, 16]):
                measure(table, name, batch, precision, others, 1.0 if args.quick else args.budget)
                save(table)


def empty(precision: str, quick: bool) -> Table:
    """The table of one precision, with what its reader must know."""
    name, title = "inference", "Inference: compile(net, x) beside what runs the plain net"
    if precision != "fp32":
        name, title = f"{name}-{precision}", f"{title}, in {precision}"
    table = Table(name, title, ours="skipway", quick=quick)
    table.notes.append(
        f"{torch.get_num_threads()} threads for each. The others get the plain net, exported for just this batch size; "
        f"tensors in and out, without copies. Outputs checked against float32 (relative difference below "
        f"{CLOSE[precision]:g})."
    )
    table.notes.append(
        "Goals: never slower than any but eager, which is at least 1.0x; 1.1x on DenseNets, RepVGG and the MLP at "
        "batch 32"
        + ("; against eager 1.8x on DenseNet-121 and 4x on ResNet-20 at batch 1" if precision == "fp32" else "")
        + ". U-Net runs on 128 x 128 pixels."
    )
    if precision == "bf16":
        table.notes.append("ONNX Runtime computes in float32: it has no bf16 convolutions on CPUs.")
        if not has_bf16():
            table.notes.append(
                "This processor has no bf16 arithmetic, so that torch emulates it: skipway computes in float32 where "
                "that is faster, and the column says so."
            )
    return table


if __name__ == "__main__":
    main()
