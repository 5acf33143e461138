"""flax (nnx) with optax: one jit-compiled step in a Python loop, and a whole epoch as one compiled scan.

The step is the "functional training loop" of flax's guide to performance: ``nnx.split`` once, plain ``jax.jit``, with
the old state given away (``donate_argnums``). The data lies on the device; batches are cut there, by index.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from contenders.keras_fit import laid_out
from contenders.turns import Job, Turns


class CNN(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        def conv(fan_in: int, width: int) -> nnx.Conv:
            return nnx.Conv(fan_in, width, (3, 3), padding="SAME", rngs=rngs)

        self.conv1, self.conv2, self.conv3 = conv(1, 8), conv(8, 32), conv(32, 32)
        self.conv4, self.conv5 = conv(32, 32), conv(32, 16)
        self.fc = nnx.Linear(48 * 7 * 7, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = nnx.relu(self.conv4(nnx.relu(self.conv3(x))) + x)
        x = jnp.concatenate([nnx.relu(self.conv5(x)), x], -1)
        return self.fc(x.reshape(len(x), -1))


class MLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc1, self.fc2, self.fc3, self.fc4 = (
            nnx.Linear(a, b, rngs=rngs) for a, b in ((784, 256), (256, 256), (256, 256), (256, 10))
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.fc1(x))
        x = nnx.relu(self.fc2(x)) + x
        x = nnx.relu(self.fc3(x)) + x
        return self.fc4(x)


def run(job: Job, turns: Turns) -> None:
    net = {"cnn": CNN, "mlp": MLP}[job.net](nnx.Rngs(job.seed))
    optimizer = nnx.Optimizer(net, optax.adam(job.lr), wrt=nnx.Param)
    x, y = jnp.asarray(laid_out(job.x)), jnp.asarray(job.y)
    graph, state = nnx.split((net, optimizer))

    def step(state: Any, index: jax.Array, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        net, optimizer = nnx.merge(graph, state)

        def loss(net: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(net(x[index]), y[index]).mean()

        value, gradients = nnx.value_and_grad(loss)(net)
        optimizer.update(net, gradients)
        return nnx.state((net, optimizer)), value

    one = jax.jit(step, donate_argnums=0)

    def scan(state: Any, order: jax.Array, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(lambda state, index: step(state, index, x, y), state, order)

    whole = jax.jit(scan, donate_argnums=0)
    turns.ready(sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param))))
    generator = np.random.default_rng(job.seed)
    while turns.more():
        order = generator.permutation(len(x))[: len(x) // job.batch * job.batch].reshape(-1, job.batch)
        if job.contender == "flax, scan":
            state, _ = whole(state, jnp.asarray(order), x, y)
        else:
            for index in order:
                state, _ = one(state, index, x, y)
        jax.block_until_ready(state)
    nnx.update((net, optimizer), state)
    turns.judged(job, np.concatenate([net(part) for part in np.array_split(laid_out(job.test_x), 4)]))
