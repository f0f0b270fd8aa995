"""A small convolutional network learns to read digits, in a worker that unpickles nothing.

python examples/pipelines/digits_convolution.py [FOLDER]

Prints how each digit was read, and draws the training and the misread images into FOLDER.
Needs soma-filters-torch, scikit-learn (for the images) and matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import soma_core as soma

EPOCHS, BATCH_SIZE = 10, 64


def layer(name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"module": f"torch.nn.{name}", "args": list(args), "kwargs": kwargs}


NETWORK = layer(
    "Sequential",
    layer("Conv2d", 1, 16, 3, padding=1),
    layer("BatchNorm2d", 16),
    layer("ReLU"),
    layer("Conv2d", 16, 32, 3, padding=1),
    layer("BatchNorm2d", 32),
    layer("ReLU"),
    layer("MaxPool2d", 2),
    layer("Flatten"),
    layer("Dropout", 0.3),
    layer("Linear", 32 * 4 * 4, 10),
)
TRAINING = {
    "loss": {"name": "cross_entropy", "label_smoothing": 0.1},
    "optimizer": {"name": "AdamW", "weight_decay": 0.05},
    "clip_norm": 1.0,
    "epochs": EPOCHS,
    "batch_size": BATCH_SIZE,
    "seed": 0,
    "output": "argmax",
}


def main(folder: Path) -> None:
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(
        images, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )
    steps = EPOCHS * -(-len(x) // BATCH_SIZE)
    config = {
        **NETWORK,
        **TRAINING,
        "scheduler": {"name": "OneCycleLR", "max_lr": 0.02, "total_steps": steps},
    }
    losses: list[float] = []
    filters = {"net": ("torch.Module", config)}
    with soma.connect("stdio", filters=filters, pickle="never", threads=1) as worker:
        worker.fit("net", x, y, return_state=False, progress=lambda r: losses.append(r["loss"]))
        read = worker.forward("net", x_test)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (y_test, read), 1)
    print("shown   read as " + " ".join(f"{digit:3d}" for digit in range(10)) + "   right")
    for digit, row in enumerate(confusion):
        cells = " ".join(f"{count:3d}" if count else "  ." for count in row)
        print(f"  {digit}             {cells}   {row[digit] / row.sum():5.1%}")
    print(f"accuracy {np.mean(read == y_test):.4f} on {len(y_test)} images it has not seen")
    folder.mkdir(parents=True, exist_ok=True)
    draw(losses, x_test[:, 0], y_test, read, folder / "digits-convolution.png")


def draw(losses: list[float], images: Any, shown: Any, read: Any, path: Path) -> None:
    """The loss of each batch, and beside it images: misread ones first."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.2])
    axes = left.subplots()
    axes.plot(np.arange(1, len(losses) + 1) * EPOCHS / len(losses), losses, linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="loss of a batch", title="Training")
    order = np.argsort(read == shown, kind="stable")[:18]
    for place, index in zip(right.subplots(3, 6).flat, order, strict=True):
        place.imshow(images[index], cmap="gray_r")
        right_one = read[index] == shown[index]
        told = f"{read[index]}" if right_one else f"{read[index]}, not {shown[index]}"
        place.set_title(told, fontsize=9, color="black" if right_one else "red")
        place.axis("off")
    right.suptitle("Read as")
    figure.savefig(path, dpi=130)
    print(f"drew {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "output")
