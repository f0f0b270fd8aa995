"""Options, and how the distributions of filters choose among them. Needs no Ray."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from soma_transport_ray import RayOptions

import soma_core as soma

GPU = soma.Remote(soma.Tag("gpu"))
W1, W2 = soma.Remote(soma.WorkerId("w1")), soma.Remote(soma.WorkerId("w2"))


def test_a_tag_asks_for_a_little_of_a_custom_resource():
    placed = RayOptions().placed([GPU, GPU])
    assert list(placed.resources) == ["gpu"]
    assert 0 < placed.resources["gpu"] <= 0.001


def test_an_amount_that_the_user_gave_stands():
    assert RayOptions(resources={"gpu": 2}).placed([GPU]).resources == {"gpu": 2}


def test_a_worker_id_is_a_session():
    placed = RayOptions().placed([W1, W1])
    assert (placed.session, placed.shared) == ("w1", True)


def test_local_and_any_leave_the_choice_to_ray():
    options = RayOptions(num_cpus=2, threads=1, pickle="never")
    assert options.placed(["Local", "Any"]) == options


@pytest.mark.parametrize(
    ("options", "wishes"), [({}, [W1, W2]), ({"session": "mine"}, [W1])], ids=["both", "option"]
)
def test_two_worker_ids_are_refused(options, wishes):
    with pytest.raises(ValueError, match="into workers of their own"):
        RayOptions(**options).placed(wishes)


@pytest.mark.parametrize(("name", "option"), [("CPU", "num_cpus"), ("GPU", "num_gpus")])
def test_the_resources_of_ray_itself_have_options_of_their_own(name, option):
    with pytest.raises(ValidationError, match=f"use {option}= instead"):
        RayOptions(resources={name: 1})
    with pytest.raises(ValueError, match=f"use {option}= instead"):
        RayOptions().placed([soma.Remote(soma.Tag(name))])


def test_a_resource_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="greater than 0"):
        RayOptions(resources={"gpu": 0})


def test_the_proxy_of_ray_client_is_refused_with_what_to_do():
    with pytest.raises(ValidationError, match="run the host on a node of the cluster"):
        RayOptions(address="ray://head:10001")
