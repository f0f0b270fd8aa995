"""Embedding: texts as vectors, by a model of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from soma_core import Filter, FilterMeta
from soma_core.configuration import check_file


class Embedding(Filter):
    """Texts as vectors whose angles tell how alike the texts are.

    Attributes:
        model: The folder of a model, where the worker runs, or its name on the Hugging Face hub.
            Its weights must be safetensors, and no code of it is run.
        revision: The version of a model of the hub.
        offline: Whether a model of the hub is taken from the cache of the worker's machine alone.
        batch_size: How many texts go through the model at once.
        normalize: Whether each vector has the length 1, so that products are cosines.
        dimensions: How many numbers of each vector to keep, for models that were trained for that;
            None for all.
        prompt: What each text is preceded by, such as ``"query: "``.
        device: ``"cpu"``, ``"cuda"``; None for the best that the worker has.
    """

    model: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    offline: bool = False
    batch_size: Annotated[int, Field(ge=1)] = 32
    normalize: bool = True
    dimensions: Annotated[int, Field(ge=1)] | None = None
    prompt: str | None = None
    device: str | None = None
    _encoder: Any = PrivateAttr(default=None)

    def meta(self) -> FilterMeta:
        """What is known of it: each vector comes from its text alone."""
        return FilterMeta(name="text.Embedding", rowwise=True)

    def on_load(self) -> None:
        """Read the model.

        Raises:
            OSError: There is no such model, or it has no safetensors.
            ValueError: The worker reads no files that a configuration names.
        """
        check_file(self.model)  # one of the hub may be downloaded as the user of this process
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._encoder = SentenceTransformer(
            self.model,
            revision=self.revision,
            local_files_only=self.offline,
            device=self.device,
            truncate_dim=self.dimensions,
            model_kwargs={"use_safetensors": True},
        )

    def forward(self, x: Any, state: Any) -> Any:
        """Embed texts.

        Args:
            x: One text, or several: a list, a tuple, an array of texts.
            state: Not used.

        Returns:
            One vector, or an array with a row for each text, of float32.

        Raises:
            TypeError: It holds something that is no text.
        """
        if self._encoder is None:
            self.on_load()
        texts = _as_texts([x] if isinstance(x, str) else x)
        vectors = self._encoder.encode(
            texts,
            batch_size=self.batch_size,
            normalize_embeddings=self.normalize,
            prompt=self.prompt,
            show_progress_bar=False,
        )
        if not texts:
            width = self.dimensions or self._encoder.get_sentence_embedding_dimension()
            vectors = vectors.reshape(0, width)
        return vectors[0] if isinstance(x, str) else vectors

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_encoder": None}}


def _as_texts(x: Any) -> list[str]:
    if not isinstance(x, Sequence) and not hasattr(x, "tolist"):
        raise TypeError(f"text.Embedding takes a text or a list of texts, got a {type(x).__name__}")
    texts = x.tolist() if hasattr(x, "tolist") else list(x)
    strange = next((place for place, text in enumerate(texts) if not isinstance(text, str)), None)
    if strange is not None:
        raise TypeError(
            f"text.Embedding takes texts; number {strange} is a {type(texts[strange]).__name__}"
        )
    return texts
