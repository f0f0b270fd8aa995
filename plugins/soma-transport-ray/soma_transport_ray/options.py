"""Options: which cluster, and what the node that runs the engine must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StringConstraints

from soma_core.transport import Distribution, OutputOptions, PluginOptions, Remote, Tag

_TOUCH = 0.001  # of a tag's resource: so little that a tag never limits how many workers there are
_OF_RAY = {"CPU": "num_cpus", "GPU": "num_gpus"}


def _not_of_ray(resources: Mapping[str, float]) -> Mapping[str, float]:
    for name in _OF_RAY.keys() & resources.keys():
        raise ValueError(f"{name!r} is Ray's own resource; use {_OF_RAY[name]}= instead")
    return resources


def _not_a_proxy(address: str | None) -> str | None:
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"{address!r} is the proxy of Ray Client, which does not share the object store; run "
            "the host on a node of the cluster and give the address of its head: 'host:6379'"
        )
    return address


Amount = Annotated[float, Field(gt=0)]
Resources = Annotated[Mapping[str, Amount], AfterValidator(_not_of_ray)]
Session = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class RayOptions(OutputOptions):
    """Options of the Ray transport.

    Attributes:
        address: The head of the cluster, as for ``ray.init``: ``"host:6379"`` or ``"auto"``.
            None takes the cluster that this process is connected to, else the one that Ray
            finds (``RAY_ADDRESS``, ``ray start``), else starts one on this machine.
        num_cpus: CPUs that the engine takes; None is Ray's default for actors.
        num_gpus: GPUs that it takes.
        resources: Custom resources that its node must have, and how much of each it takes.
        session: The name of an engine that is shared with whoever names it too, and that lives
            on without clients; None for an engine of your own.
        plugins: Options of plugins, by plugin, for the engine and for this process.
        runtime_env: Ray's runtime environment of the engine: packages, variables, files.
    """

    address: Annotated[str | None, AfterValidator(_not_a_proxy)] = None
    num_cpus: float | None = Field(default=None, ge=0)
    num_gpus: float | None = Field(default=None, ge=0)
    resources: Resources = Field(default_factory=dict)
    session: Session | None = None
    plugins: PluginOptions = Field(default_factory=dict)
    runtime_env: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def shared(self) -> bool:
        return self.session is not None

    def placed(self, distributions: Iterable[Distribution]) -> Self:
        """A tag is a custom resource, a worker id a session; the rest is Ray's choice."""
        resources = dict(self.resources)
        session = self.session
        for wish in (one.Remote for one in distributions if isinstance(one, Remote)):
            if isinstance(wish, Tag):
                resources.setdefault(wish.Tag, _TOUCH)
            elif session in (None, wish.WorkerId):
                session = wish.WorkerId
            else:
                raise ValueError(
                    f"one filter must run on the worker {wish.WorkerId!r}, and another, or the "
                    f"option session, names {session!r}; load them into workers of their own"
                )
        chosen = self.model_dump(exclude_unset=True) | {"resources": resources, "session": session}
        return type(self)(**chosen)
