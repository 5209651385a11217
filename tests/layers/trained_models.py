"""Small models trained for real on scikit-learn's digits, in both frameworks, from many starts.

For judging `wtool init`: every tensor here was trained, some only for a few steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from initialiser_cases import in_memory

from wtool.checkpoint import Checkpoint

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images (n, 64) float32 in 0..1 and their classes (n,) int64."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target.astype(np.int64)


def trained_checkpoints(*, fast: bool = False, seed: int = 1) -> Iterator[tuple[str, Checkpoint]]:
    """(description, checkpoint) of models trained with different starts, optimizers and lengths."""
    plans = [("adam", 1e-3, 5), ("sgd", 0.05, 5)]
    if not fast:
        plans += [("adam", 1e-3, 1), ("adam", 1e-3, 40), ("sgd", 0.1, 40), ("adam", 3e-3, 10)]
    for optimizer, rate, epochs in plans:
        for start in ("default", "xavier_normal", "kaiming_normal", "orthogonal", "trunc_normal"):
            for model in ("mlp", "cnn", "gru", "transformer"):
                if fast and start not in ("default", "kaiming_normal"):
                    continue
                name = f"torch {model} {start} {optimizer} {rate} x{epochs}"
                yield name, _train_torch(model, start, optimizer, rate, epochs, seed)
    for start in ("glorot_uniform", "he_normal", "lecun_normal"):
        for epochs in (2,) if fast else (1, 10):
            yield f"keras cnn {start} adam x{epochs}", _train_keras("cnn", start, epochs, seed)
            yield f"keras lstm {start} adam x{epochs}", _train_keras("lstm", start, epochs, seed)


def _train_torch(
    kind: str, start: str, optimizer: str, rate: float, epochs: int, seed: int
) -> Checkpoint:
    import torch
    from torch.nn import functional, init

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    images, classes = (torch.from_numpy(part) for part in digits())
    model = _torch_model(torch, kind)
    draws = {
        "xavier_normal": init.xavier_normal_,
        "kaiming_normal": lambda w: init.kaiming_normal_(w, nonlinearity="relu"),
        "orthogonal": init.orthogonal_,
        "trunc_normal": lambda w: init.trunc_normal_(w, std=0.05),
    }
    with torch.no_grad():
        for parameter in model.parameters():
            if start in draws and parameter.ndim >= 2:
                draws[start](parameter)
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    steps = make(model.parameters(), lr=rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            steps.zero_grad()
            functional.cross_entropy(model(images[batch]), classes[batch]).backward()
            steps.step()
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    return in_memory(arrays, "torch zip")


def _torch_model(torch, kind: str):
    nn = torch.nn
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )
    if kind == "cnn":
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 10),
        )

    class Sequence(nn.Module):
        """Rows of an image as a sequence, through a GRU or one transformer layer."""

        def __init__(self) -> None:
            super().__init__()
            self.inputs = nn.Linear(8, 32)
            if kind == "gru":
                self.body = nn.GRU(32, 48, batch_first=True)
            else:
                self.body = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
            self.head = nn.Linear(48 if kind == "gru" else 32, 10)

        def forward(self, images):
            hidden = self.body(self.inputs(images.view(-1, 8, 8)))
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            return self.head(hidden.mean(1))

    return Sequence()


def _train_keras(kind: str, start: str, epochs: int, seed: int) -> Checkpoint:
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    images, classes = digits()
    if kind == "cnn":
        body = [
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(16, 3, kernel_initializer=start, name="conv1"),
            layers.BatchNormalization(name="bn1"),
            layers.ReLU(),
            layers.Conv2D(32, 3, kernel_initializer=start, name="conv2"),
            layers.Flatten(),
        ]
    else:
        body = [layers.Reshape((8, 8)), layers.LSTM(32, kernel_initializer=start, name="rnn")]
    head = layers.Dense(10, kernel_initializer=start, name="head")
    model = keras.Sequential([keras.Input((64,)), *body, head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(images, classes, batch_size=64, epochs=epochs, verbose=0)
    arrays = {variable.path: np.asarray(variable) for variable in model.weights}
    return in_memory(arrays, "keras")
