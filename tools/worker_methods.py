"""The methods of workers and pools on the site: classes take them from where griffe cannot look.

``load = _blocking(Verbs.load)`` is an attribute for who does not run it; here it becomes a method.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["WorkerMethods"]

_VERBS = {"Verbs": "client.verbs.verbs.Verbs", "PoolVerbs": "client.pool.verbs.PoolVerbs"}
_WORKERS = {
    "client.pool.verbs.PoolVerbs": False,
    "client.worker.Worker": False,
    "client.aio.worker.AsyncWorker": True,
    "client.pool.blocking.worker_pool.WorkerPool": False,
    "client.pool.async_pool.AsyncWorkerPool": True,
}
"""The classes, and whether their methods are awaited; first one that others take methods from."""

_TAKEN = re.compile(r"\w+\((Verbs|PoolVerbs)\.(\w+).*\)")
_STEPS = ("Steps", "Request")
_CALL = "PoolCall"

_TAKING = (
    "client.connect.connect",
    "client.aio.connect.connect_async",
    "client.pool.blocking.worker_pool.WorkerPool.__init__",
    "client.pool.async_pool.AsyncWorkerPool.__init__",
)
"""The functions that are declared to take the arguments of another one."""
_ARGUMENTS_OF = re.compile(r".*takes_arguments_of\((\w+)\)")


class WorkerMethods(griffe.Extension):
    """Puts the methods in their places, once the whole package was read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Called by griffe for a package that it has read."""
        if pkg.path != "soma_core":
            return
        for path, awaited in _WORKERS.items():
            worker = pkg[path]
            for name, member in list(worker.members.items()):
                taken = _TAKEN.fullmatch(str(getattr(member, "value", None)))
                if taken:
                    verb = pkg[_VERBS[taken[1]]].all_members[taken[2]]
                    worker.set_member(name, _method(name, verb, worker, awaited))
        for path in _TAKING:
            _take_arguments(pkg, pkg[path])


def _take_arguments(pkg: griffe.Module, function: griffe.Function) -> None:
    declared = _ARGUMENTS_OF.fullmatch(str(function.decorators[0].value))
    if declared is None:
        raise ValueError(f"{function.path} does not say whose arguments it takes")
    taken = pkg[function.module.resolve(declared[1]).removeprefix("soma_core.")].parameters
    own = [parameter for parameter in function.parameters if parameter.name == "self"]
    function.parameters = griffe.Parameters(*own, *taken)


def _method(name: str, verb: Any, worker: griffe.Class, awaited: bool) -> griffe.Function:
    method = griffe.Function(
        name,
        parameters=verb.parameters,
        returns=_result(verb.returns),
        lineno=verb.lineno,
        endlineno=verb.endlineno,
        parent=worker,
    )
    if verb.docstring is not None:
        method.docstring = griffe.Docstring(
            verb.docstring.value,
            parent=method,
            parser=verb.docstring.parser,
            parser_options=verb.docstring.parser_options,
        )
    if awaited:
        method.labels.add("async")
    return method


def _result(returns: Any) -> Any:
    """What steps of a type come to: ``T`` of ``Steps[T]``, or of ``Request[T]``."""
    if str(returns) == _CALL:
        return "Any"
    is_steps = isinstance(returns, griffe.ExprSubscript) and str(returns.left) in _STEPS
    return returns.slice if is_steps else returns
