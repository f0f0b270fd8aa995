"""The model behind LitServe: ``python -m benchmarks.serving.lit PORT`` serves it."""

# LitServe looks at the annotations themselves, so that they must not be texts.

import sys
from contextlib import suppress
from typing import Any

import numpy as np

from benchmarks.serving.model import Array, forward

litserve: Any = None
Base: Any = object
with suppress(ImportError):  # it comes with an extra
    import litserve

    Base = litserve.LitAPI


class Model(Base):  # type: ignore[misc]
    """Answers rows, joined by LitServe."""

    def setup(self, device: str) -> None:
        """There is nothing to load."""

    def decode_request(self, request: dict[str, Any]) -> Array:
        """The row of a request."""
        return np.asarray(request["row"], np.float32)

    def predict(self, x: Array) -> Array:
        """The answers to a batch."""
        return forward(np.asarray(x))

    def encode_response(self, output: Array) -> dict[str, Any]:
        """The answer to one request."""
        return {"row": output.tolist()}


def main() -> None:
    """Serve until it is ended."""
    api = Model(max_batch_size=64, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, track_requests=False)
    port = int(sys.argv[1])
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
