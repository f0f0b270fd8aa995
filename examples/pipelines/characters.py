"""A network learns to continue Python's own help texts, character by character, in a worker.

python examples/pipelines/characters.py [FOLDER]

The text is that of ``help("topics")``, which ships with Python. Prints how well the network
predicts topics that it has not read, beside models that count, and what it writes itself; draws
the training, and how surprising it finds each character of a passage, into FOLDER.
Needs soma-filters-torch and matplotlib.
"""

from __future__ import annotations

import lzma
import sys
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import matplotlib
import numpy as np

import soma_core as soma

CONTEXT, EMBEDDED, HIDDEN, BATCH_SIZE = 16, 24, 384, 384
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))  # anything else is read as a blank


def layer(name: str, *args: Any) -> dict[str, Any]:
    return {"module": f"torch.nn.{name}", "args": list(args)}


NETWORK = layer(
    "Sequential",
    layer("Embedding", len(CHARACTERS), EMBEDDED),
    layer("Flatten"),
    layer("Linear", CONTEXT * EMBEDDED, HIDDEN),
    layer("LayerNorm", HIDDEN),
    layer("ReLU"),
    layer("Linear", HIDDEN, len(CHARACTERS)),
)


def numbered(text: str) -> np.ndarray[Any, Any]:
    """A text as the numbers of its characters."""
    return np.array([CHARACTERS.find(character) % len(CHARACTERS) for character in text], "int32")


def windows(numbers: Any) -> tuple[Any, Any]:
    """Each CONTEXT characters of a text, and the character that comes next."""
    cut = np.lib.stride_tricks.sliding_window_view(numbers, CONTEXT + 1)
    return np.ascontiguousarray(cut[:, :-1]), np.ascontiguousarray(cut[:, -1])


def main(folder: Path) -> None:
    texts = [topics[name] for name in sorted(topics)]
    held_out = texts[::10]
    read = "\n".join(text for number, text in enumerate(texts) if number % 10)
    x, y = windows(numbered(read))
    x_test, y_test = windows(numbered("\n".join(held_out)))
    config = {
        **NETWORK,
        "loss": "cross_entropy",
        "optimizer": "AdamW",
        "scheduler": {
            "name": "OneCycleLR",
            "max_lr": 0.02,
            "total_steps": -(-len(x) // BATCH_SIZE),
        },
        "clip_norm": 1.0,
        "batch_size": BATCH_SIZE,
        "seed": 0,
        "output": "softmax",
    }
    losses: list[float] = []
    filters = {"net": ("torch.Module", config)}
    with soma.connect("stdio", filters=filters, pickle="never", threads=1) as worker:
        worker.fit("net", x, y, return_state=False, progress=lambda r: losses.append(r["loss"]))
        probabilities = worker.forward("net", x_test)
        written = write(worker, "The statement", 400)
    bits = -np.log2(probabilities[np.arange(len(y_test)), y_test])
    found = counted(y, y_test, x, x_test) | {"lzma": packed(read, "\n".join(held_out))}
    found["network"] = float(bits.mean())
    print(f"read {len(y):,} characters; bits for each of {len(y_test):,} that it has not read:")
    for name, value in found.items():
        print(f"  {name:<22} {value:5.2f}  {'▇' * round(value * 8)}")
    print(f"\nit writes:\n\n{written}\n")
    folder.mkdir(parents=True, exist_ok=True)
    passage = slice(2_000, 2_000 + 9 * 48)
    draw(losses, found, y_test[passage], bits[passage], folder / "characters.png")


def write(worker: soma.Worker, start: str, count: int) -> str:
    """Let the network continue a text, drawing each character as likely as it holds it to be."""
    draw_one = np.random.default_rng(0)
    numbers = list(numbered(start.rjust(CONTEXT, "\n")))
    for _ in range(count):
        (likely,) = worker.forward("net", np.array([numbers[-CONTEXT:]], "int32"))
        sharper = likely.astype(float) ** 1.5
        numbers.append(draw_one.choice(len(likely), p=sharper / sharper.sum()))
    return "".join(CHARACTERS[number] for number in numbers).strip()


def counted(y: Any, y_test: Any, x: Any, x_test: Any) -> dict[str, float]:
    """Bits for each character by how often it followed the last 0 to 3, smoothed by fewer."""
    found: dict[str, float] = {}
    share = np.full(len(y_test), 1 / len(CHARACTERS))
    for length in range(4):
        pairs, contexts = Counter(_keys(x, y, length)), Counter(_keys(x, None, length))
        seen = np.array([pairs[key] for key in _keys(x_test, y_test, length)])
        times = np.array([contexts[key] for key in _keys(x_test, None, length)])
        share = (seen + 2 * share) / (times + 2)
        name = f"counts after {length}" if length else "counts"
        found[name] = float(-np.log2(share).mean())
    return found


def _keys(x: Any, y: Any, length: int) -> list[int]:
    """The last characters of each context, and the next one, as one number."""
    columns = list(x[:, CONTEXT - length :].T) + ([] if y is None else [y])
    keys = np.zeros(len(x), "int64")
    for column in columns:
        keys = keys * len(CHARACTERS) + column
    return keys.tolist()


def packed(read: str, held_out: str) -> float:
    """Bits that lzma needs for each character of a text after another one."""
    alone = len(lzma.compress(read.encode(), preset=9))
    return (len(lzma.compress((read + held_out).encode(), preset=9)) - alone) * 8 / len(held_out)


def draw(losses: list[float], found: dict[str, float], text: Any, bits: Any, path: Path) -> None:
    """The training, and a passage coloured by how surprising the network finds it."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12, 4), layout="constrained", width_ratios=[1, 1.5]
    )
    smooth = np.convolve(np.array(losses) / np.log(2), np.ones(20) / 20, "valid")
    left.plot(np.arange(20, len(losses) + 1), smooth, linewidth=0.9)
    for name, value in found.items():
        color = "C1" if name == "network" else "gray"
        left.axhline(value, color=color, linewidth=0.6, linestyle=":")
        end = "left" if name == "network" else "right"
        place = 0 if name == "network" else len(losses)
        left.text(place, value, name, ha=end, va="bottom", fontsize=7, color=color)
    left.set(xlabel="batch", ylabel="bits per character", title="Training", ylim=(1, 6))
    shades = np.clip(bits.reshape(9, 48), 0, 8)
    right.imshow(shades, cmap="YlOrRd", aspect="auto")
    for (row, column), number in np.ndenumerate(text.reshape(9, 48)):
        character = CHARACTERS[number].replace("\n", "↵").replace("$", r"\$")
        color = "white" if shades[row, column] > 6 else "black"
        style = {"ha": "center", "va": "center", "fontsize": 8, "family": "monospace"}
        right.text(column, row, character, color=color, **style)
    right.set(title="Surprise: white is expected, red is not", xticks=[], yticks=[])
    figure.savefig(path, dpi=130)
    print(f"drew {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "output")
