"""Sparse matrices travel without a pickle, and none that lies reaches scipy's compiled code."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from soma_filters_sklearn import sparse_codecs

import soma_core as soma

DENSE = np.arange(24.0).reshape(4, 6) % 5
KINDS = [
    f"{format_}_{kind}"
    for format_ in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
    for kind in ("array", "matrix")
]


@pytest.fixture(scope="module")
def worker():
    filters = {"echo": ("sklearn.FunctionTransformer", {"accept_sparse": True})}
    with soma.connect("stdio", pickle="never", filters=filters) as worker:
        worker.fit("echo", DENSE)
        yield worker


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_arrives_as_it_was_without_a_pickle(worker, kind):
    sent = getattr(sparse, kind)(DENSE)
    came = worker.forward("echo", sent)
    assert type(came) is type(sent)
    assert came.dtype == sent.dtype
    assert np.array_equal(came.toarray(), DENSE)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float32", "complex128"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_element_type_arrives(kind, dtype):
    sent = getattr(sparse, kind)(DENSE.astype(dtype))
    came = sparse_codecs.decode(kind, sparse_codecs.encode(sent).data)
    assert came.dtype == sent.dtype
    assert (came != sent).nnz == 0


@pytest.mark.parametrize("kind", ["csr_matrix", "coo_array", "bsr_matrix"])
def test_an_empty_matrix_arrives(kind):
    sent = getattr(sparse, kind)((3, 2))
    came = sparse_codecs.decode(kind, sparse_codecs.encode(sent).data)
    assert came.shape == (3, 2)
    assert came.nnz == 0


def ints(*values):
    return np.array(values, np.int32)


LIES = {
    "a column that is not there": ("csr_matrix", {"indices": ints(0, 9)}),
    "a negative column": ("csr_matrix", {"indices": ints(0, -1)}),
    "bounds that fall": ("csr_matrix", {"indptr": ints(0, 2, 1)}),
    "bounds beyond the numbers": ("csr_matrix", {"indptr": ints(0, 1, 5)}),
    "more rows than bounds": ("csr_matrix", {"shape": [9, 3]}),
    "millions of rows": ("lil_matrix", {"shape": [10**9, 3]}),
    "columns that are floats": ("csr_matrix", {"indices": np.zeros(2)}),
    "numbers that are objects": ("csr_matrix", {"data": np.array([1, None], object)}),
    "no bounds": ("csr_matrix", {"indptr": None}),
    "a negative shape": ("csr_matrix", {"shape": [-2, 3]}),
    "a row that is not there": ("coo_matrix", {"coords": [ints(0, 7), ints(0, 1)]}),
    "one axis": ("coo_matrix", {"coords": [ints(0, 1)]}),
    "axes of two lengths": ("coo_matrix", {"coords": [ints(0, 1), ints(0)]}),
    "blocks of no size": ("bsr_matrix", {"data": np.zeros((2, 0, 1))}),
    "blocks that do not fit": ("bsr_matrix", {"data": np.zeros((2, 2, 2))}),
    "a diagonal twice": ("dia_matrix", {"offsets": ints(0, 0)}),
    "fewer diagonals than offsets": ("dia_matrix", {"offsets": ints(0, 1, 2)}),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_lies_is_refused(lie):
    kind, change = LIES[lie]
    honest = getattr(sparse, kind)(sparse.coo_matrix((np.ones(2), ([0, 1], [0, 2])), (2, 3)))
    data = {**sparse_codecs.encode(honest).data, **change}
    with pytest.raises(ValueError, match=r"."):
        sparse_codecs.decode(kind, data)
