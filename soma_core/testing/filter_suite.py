"""FilterConformance: every clause that a filter must meet, as tests to inherit."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import cloudpickle
import numpy as np
import pytest
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from soma_core.client.connect import connect
from soma_core.client.worker import Worker
from soma_core.engine.nodes import prepares
from soma_core.errors import RemoteError
from soma_core.models import rows
from soma_core.models.filters import Filter, FilterKind, FilterMeta
from soma_core.models.fingerprint import fingerprint
from soma_core.testing.clauses import FILTER_CLAUSES, Clause, covers
from soma_core.testing.filters import HashOf
from soma_core.testing.suite import ConformanceSuite
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack

_PICKLES = Pickles()


class FilterConformance(ConformanceSuite):
    """What a filter must do, as tests: subclass it in a test module.

    ::

        class TestClip(FilterConformance):
            def build(self):
                return Clip(quantile=0.5)

            def data(self):
                return np.arange(30.0)

    Attributes:
        transport: The transport over which the filter is tried in a worker.
    """

    clauses: ClassVar[Mapping[str, Clause]] = FILTER_CLAUSES
    transport: ClassVar[str] = "stdio"

    def build(self) -> Filter:
        """A new filter, configured equally each time."""
        raise NotImplementedError(f"{type(self).__name__} does not define build()")

    def data(self) -> Any:
        """What it is fitted with and run on: at least six rows."""
        raise NotImplementedError(f"{type(self).__name__} does not define data()")

    def targets(self) -> Any:
        """What it is fitted to; None if it needs none."""
        return None

    def fitted(self) -> tuple[Filter, Any]:
        """A filter, and the state that it learned."""
        node = self.build()
        return node, node.fit(self.data(), self.targets())

    @pytest.fixture(scope="class")
    @classmethod
    def worker(cls) -> Iterator[Worker]:
        """A worker that the tests share."""
        with connect(cls.transport, timeout=60.0, filters={"hash": HashOf()}) as worker:
            yield worker

    @covers("meta.valid")
    def test_meta_describes_the_filter(self) -> None:
        node = self.build()
        meta = node.meta()
        assert isinstance(meta, FilterMeta)
        assert meta == node.meta()
        assert FilterMeta.model_validate(meta.model_dump(mode="json")) == meta
        if meta.kind is FilterKind.STATELESS:
            assert node.fit(self.data(), self.targets()) == {}, "what learns is Trainable"

    @covers("meta.schemas")
    def test_inputs_and_outputs_keep_to_the_declared_schemas(self) -> None:
        node, state = self.fitted()
        meta = node.meta()
        lengths: dict[str, int] = {}
        if meta.input_schema is not None:
            meta.input_schema.check(self.data(), lengths)
        if meta.output_schema is not None:
            meta.output_schema.check(_forward(node, self.data(), state), lengths)

    @covers("config.round-trip")
    def test_the_configuration_makes_an_equal_filter(self) -> None:
        node = self.build()
        fields = {name: getattr(node, name) for name in node.model_fields_set}
        assert node.model_copy().config_hash() == node.config_hash()
        named = type(node).model_validate(fields, by_name=True)
        assert named.config_hash() == node.config_hash()
        try:
            text = node.model_dump_json(by_alias=True, exclude_unset=True)
        except PydanticSerializationError as error:
            pytest.skip(f"the configuration cannot be written as JSON: {error}")
        assert type(node).model_validate_json(text).config_hash() == node.config_hash()

    @covers("config.strict")
    def test_a_field_that_does_not_exist_is_refused(self) -> None:
        node = self.build()
        given = node.model_dump(by_alias=True, exclude_unset=True)
        with pytest.raises(ValidationError, match="no_such_field"):
            type(node).model_validate({**given, "no_such_field": 1})

    @covers("config.hash")
    def test_equal_filters_have_equal_hashes_whatever_ran(self) -> None:
        node = self.build()
        before = node.config_hash()
        assert before == self.build().config_hash()
        _forward(node, self.data(), node.fit(self.data(), self.targets()))
        assert node.config_hash() == before, "fit() or forward() changed the configuration"

    @covers("config.hash-elsewhere")
    def test_another_process_computes_the_same_hash(self, worker: Worker) -> None:
        node = self.build()
        assert worker.forward("hash", node) == node.config_hash()

    @covers("pickling")
    def test_a_pickled_filter_returns_what_the_original_returns(self) -> None:
        node, state = self.fitted()
        read = cloudpickle.loads(cloudpickle.dumps(node))
        assert type(read) is type(node)
        self._skip_if_random(state)
        assert _same(_forward(read, self.data(), state), _forward(node, self.data(), state))

    @covers("forward.input-kept")
    def test_forward_does_not_change_its_input(self) -> None:
        node, state = self.fitted()
        x = self.data()
        _forward(node, x, state)
        assert _same(x, self.data())

    @covers("forward.state-kept")
    def test_forward_does_not_change_the_state(self) -> None:
        node, state = self.fitted()
        kept = copy.deepcopy(state)
        _forward(node, self.data(), state)
        assert _same(state, kept)

    @covers("forward.pure")
    def test_forward_leaves_nothing_behind_that_changes_a_later_result(self) -> None:
        used, state = self.fitted()
        self._skip_if_random(state)
        first = copy.deepcopy(_forward(used, self.data(), copy.deepcopy(state)))
        for _ in range(2):
            assert _same(_forward(used, self.data(), copy.deepcopy(state)), first)

    @covers("forward.deterministic")
    def test_equal_input_and_state_give_equal_results(self) -> None:
        _, state = self.fitted()
        if not self.build().meta().deterministic:
            pytest.skip("forward.deterministic: meta() states that it is not")
        assert not self._is_random(state)

    @covers("forward.rowwise")
    def test_each_row_gives_alone_what_it_gives_among_others(self) -> None:
        node, state = self.fitted()
        if not node.meta().rowwise:
            pytest.skip("forward.rowwise: meta() does not state it")
        self._skip_if_random(state)
        x = self.data()
        alone = [
            _forward(node, rows.take(x, slice(row, row + 1)), copy.deepcopy(state))
            for row in range(rows.count(x) or 0)
        ]
        together = _forward(node, x, copy.deepcopy(state))
        assert _close(rows.concatenate(alone), together), "its rows are not independent"

    @covers("fit.input-kept")
    def test_fit_does_not_change_its_input_or_its_targets(self) -> None:
        x, y = self.data(), self.targets()
        self.build().fit(x, y)
        assert _same(x, self.data())
        assert _same(y, self.targets())

    @covers("fit.state-returned")
    def test_what_was_learned_is_in_the_state(self) -> None:
        node, state = self.fitted()
        self._skip_if_random(state)
        other = _forward(self.build(), self.data(), copy.deepcopy(state))
        assert _same(_forward(node, self.data(), state), other), "another filter needs more than it"

    @covers("state.round-trip")
    def test_a_state_that_travelled_does_what_the_one_did_that_stayed(self) -> None:
        _, state = self.fitted()
        self._skip_if_random(state)
        stayed = _forward(self.build(), self.data(), copy.deepcopy(state))
        for travel in (_in_a_frame, _in_a_line):
            travelled = _forward(self.build(), self.data(), travel(state))
            assert _same(travelled, stayed), travel.__name__

    @covers("state.fetched")
    def test_its_state_can_be_fetched_after_it_ran(self) -> None:
        with connect("inline", filters={"node": self.build()}) as inline:
            inline.fit("node", self.data(), self.targets(), return_state=False)
            inline.forward("node", self.data())
            assert inline.get_state("node").data is not None
            try:
                inline.get_state("node", format="value")  # as where pickles are refused
            except RemoteError as error:
                pytest.skip(f"its fields need a pickle: {error}")

    @covers("batches")
    def test_a_chain_of_it_can_be_fitted_batch_by_batch(self) -> None:
        x = self.data()
        with connect("inline", filters={"node": self.build()}) as inline:
            size = max(1, len(x) // 2)
            result = inline.batched_fit(["node"], x, self.targets(), batch_size=size)
            assert "node" in result.states
            inline.forward("node", self.data())

    @covers("worker")
    def test_a_worker_returns_what_it_returns_here(self, worker: Worker) -> None:
        _, state = self.fitted()
        worker.load({"node": self.build()})
        there = worker.forward("node", self.data(), state)
        self._skip_if_random(state)
        assert _same(there, _forward(self.build(), self.data(), state))

    def _is_random(self, state: Any) -> bool:
        first, second = (
            _forward(self.build(), self.data(), copy.deepcopy(state)) for _ in range(2)
        )
        return not _same(first, second)

    def _skip_if_random(self, state: Any) -> None:
        if self._is_random(state):
            pytest.skip("equal filters return different results: there is nothing to compare")


def _forward(node: Filter, x: Any, state: Any) -> Any:
    """What a worker calls: ``forward``, with what ``prepare`` makes of the state."""
    prepared = (node.prepare(state),) if prepares(node) else ()  # type: ignore[attr-defined]
    return node.forward(x, state, *prepared)


def _in_a_frame(state: Any) -> Any:
    header, buffers = pack(state, _PICKLES)
    return unpack(header, [bytearray(memoryview(buffer)) for buffer in buffers], _PICKLES)


def _in_a_line(state: Any) -> Any:
    text = write_json({"state": LineEncoder(pickles=_PICKLES).encode(state)})
    return LineDecoder(pickles=_PICKLES).state(read_json(text)["state"])


def _same(actual: Any, expected: Any) -> bool:
    return type(actual) is type(expected) and _digest(actual) == _digest(expected)


def _close(actual: Any, expected: Any) -> bool:
    """Whether two results are the same but for the order in which numbers were added up."""
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            _close(actual[key], item) for key, item in expected.items()
        )
    if type(actual) is not type(expected) or not hasattr(expected, "dtype"):
        return _same(actual, expected)
    here, there = _as_array(actual), _as_array(expected)
    if there.dtype.kind not in "fc":
        return _same(here, there)
    alike = here.shape == there.shape
    return alike and np.allclose(here, there, rtol=1e-3, atol=1e-5, equal_nan=True)


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value.detach() if hasattr(value, "detach") else value)


def _digest(value: Any) -> str:
    try:
        return fingerprint(value)
    except TypeError:  # no plain data, such as a DataFrame
        return hashlib.sha256(cloudpickle.dumps(value)).hexdigest()
