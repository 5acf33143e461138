"""Keras 3 on torch and on jax.

On jax it compiles by itself, and runs 32 batches in one call, as its documentation advises for small models
(``steps_per_execution``; the torch backend has no such thing). The images have their channels last, its default.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from contenders.turns import Job, Turns


def run(job: Job, turns: Turns) -> None:
    os.environ["KERAS_BACKEND"] = backend = job.contender.partition("(")[2].rstrip(")")
    import keras
    from keras import layers

    keras.utils.set_random_seed(job.seed)

    def conv(width: int, act: str | None = "relu") -> Any:
        return layers.Conv2D(width, 3, padding="same", activation=act)

    if job.net == "mlp":
        start = keras.Input((784,))
        h = layers.Dense(256, activation="relu")(start)
        h = layers.add([layers.Dense(256, activation="relu")(h), h])
        h = layers.add([layers.Dense(256, activation="relu")(h), h])
    else:
        start = keras.Input((28, 28, 1))
        h = layers.MaxPooling2D()(conv(8)(start))
        h = layers.MaxPooling2D()(conv(32)(h))
        h = layers.ReLU()(layers.add([conv(32, None)(conv(32)(h)), h]))
        h = layers.Flatten()(layers.concatenate([conv(16)(h), h]))
    net = keras.Model(start, layers.Dense(10)(h))
    net.compile(
        optimizer=keras.optimizers.Adam(job.lr, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **({"steps_per_execution": 32} if backend == "jax" else {}),
    )

    class Turn(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = not turns.more()

    turns.ready(net.count_params())
    if turns.more():
        net.fit(laid_out(job.x), job.y, batch_size=job.batch, epochs=10**6, verbose=0, callbacks=[Turn()])
    turns.judged(job, np.asarray(net.predict(laid_out(job.test_x), batch_size=500, verbose=0)))


def laid_out(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x
