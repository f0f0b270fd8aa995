"""What a filter does wrong outside of fit and forward is told as its failure, and by its name."""

from __future__ import annotations

from typing import Any

import pytest

from soma_core.engine.hints import hint_for_forward
from soma_core.testing import Fault, Faulty, Moment

FAULTS = {Fault.RAISE: "RuntimeError", Fault.SYS_EXIT: "SystemExit"}
MOMENTS = {
    Moment.IMPORT: "load_failed",
    Moment.LOAD: "load_failed",
    Moment.FIT: "filter_failed",
    Moment.FORWARD: "filter_failed",
    Moment.GET_STATE: "filter_failed",
}
DATA = {"data": 1}


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_failure_names_its_node_its_type_and_where_it_happened(
    host: Any, refused: Any, fault: Fault, moment: Moment
) -> None:
    def reach() -> None:
        host.load(faulty=Faulty(fault, moment))
        host.ask(moment.name, node_id="faulty", **({} if moment is Moment.GET_STATE else DATA))

    with pytest.raises(refused) as caught:
        reach()
    assert caught.value.code == MOMENTS[moment]
    assert caught.value.node_id == "faulty"
    assert caught.value.type == FAULTS[fault]
    assert "in happen" in caught.value.fields["traceback"]
    assert host.node_ids == ([] if moment in (Moment.IMPORT, Moment.LOAD) else ["faulty"])


@pytest.mark.parametrize("holder", [[1.0], {}, None])
def test_data_that_lack_an_attribute_are_no_sign_of_a_forgotten_fit(holder: Any) -> None:
    with pytest.raises(AttributeError) as caught:
        _ = holder.values_of_it
    hint = hint_for_forward(caught.value, {}, unlearned=True)
    assert ("call fit first" in hint) == (not isinstance(holder, list))


class _TakesTwo:
    def forward(self, a: Any, b: Any) -> Any:
        return a + b


class _TakesState:
    def forward(self, x: Any, state: Any) -> Any:
        return x + state


def test_a_filter_that_takes_two_inputs_is_told_that_the_second_is_its_state(
    host: Any, refused: Any
) -> None:
    host.load(two=_TakesTwo(), one=_TakesState())
    with pytest.raises(refused, match=r"'dict'; b is the state.*send two as one dict"):
        host.ask("FORWARD", node_id="two", data=1)
    with pytest.raises(refused, match=r"'dict'$"):
        host.ask("FORWARD", node_id="one", data=1)
