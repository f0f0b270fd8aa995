"""The definitions that this process made itself, and those that it received."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from soma_core.wire.locks import renew_in_forked_child


class Name(NamedTuple):
    """What a definition is called, and what it says.

    Attributes:
        module: The module that defines it.
        qualname: Its name there.
        signature: Equal for equal texts.
    """

    module: str
    qualname: str
    signature: str


class Bundle(NamedTuple):
    """A definition, with all others that it refers to, as it travels.

    Attributes:
        digest: A hash of ``data``.
        data: The pickle; what follows is by position what it calls by number.
        tokens: The tokens of the definitions in it; the first is the one that it is about.
        names: Their names.
        places: The file and first line of each piece of code.
        sources: The text of files that are only in the memory of the process that defined it.
    """

    digest: bytes
    data: bytes
    tokens: tuple[str, ...]
    names: tuple[tuple[str, str, str], ...]
    places: tuple[tuple[str, int], ...]
    sources: dict[str, str]


@dataclass
class Known:
    """What is remembered of a definition that was received.

    Attributes:
        bundle: What it came in.
        number: Which of it is the one.
        token: What the process that defined it calls it.
        digests: Bundles whose definition of it says the same.
    """

    bundle: Bundle
    number: int
    token: str
    digests: set[bytes] = field(default_factory=set)

    @property
    def name(self) -> Name:
        return Name(*self.bundle.names[self.number])


class _Registry:
    """Classes and functions by token: those of this process are never made anew from a pickle.

    A class is one in a process, so that this is one in a process too.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        renew_in_forked_child(self, "lock", threading.RLock)
        self._origin = ""
        self._pid = 0
        self._count = 0
        self._token_of: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._own: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._received: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._known: WeakKeyDictionary[Any, Known] = WeakKeyDictionary()
        self._by_name: WeakValueDictionary[Name, Any] = WeakValueDictionary()
        self._namespaces: OrderedDict[tuple[str, str], ModuleType] = OrderedDict()
        self.in_worker = False

    def token(self, obj: Any) -> str:
        """The token of a definition; its own gets one here, when it is first sent."""
        with self.lock:
            known = self._known.get(obj)
            if known is not None:
                return known.token
            token = self._token_of.get(obj)
            if token is None:
                self._count += 1
                token = self._token_of[obj] = f"{self._this_process()}.{self._count}"
                self._own[token] = obj
            return token

    def _this_process(self) -> str:
        if self._pid != os.getpid():  # a forked one counts on by itself
            self._pid, self._origin = os.getpid(), uuid.uuid4().hex
        return self._origin

    def program(self) -> str:
        """What this process is called in the tokens that it gives."""
        with self.lock:
            return self._this_process()

    def known(self, obj: Any) -> Known | None:
        """What is remembered of it, if it was received."""
        return self._known.get(obj)

    def own(self, token: str) -> Any | None:
        """The definition of this process that has this token."""
        return self._own.get(token)

    def received(self, token: str) -> Any | None:
        """The definition that was received under this token."""
        return self._received.get(token)

    def alike(self, name: Name, token: str) -> Any | None:
        """One that another program defined alike; None if that is this program's own twin."""
        obj = self._by_name.get(name)
        known = None if obj is None else self._known.get(obj)
        if known is None or not known.digests or origin(known.token) == origin(token):
            return None
        return obj

    def keep_own(self, obj: Any, token: str) -> None:
        """Another program's token stands for a definition of this one."""
        self._own[token] = obj

    def keep(self, obj: Any, known: Known) -> None:
        """Remember what was received."""
        self._known[obj] = known
        self._received[known.token] = obj
        self._by_name[known.name] = obj

    def keep_alike(self, obj: Any, token: str, digest: bytes) -> None:
        """What was received under another token stands for this one too."""
        self._received[token] = obj
        self._known[obj].digests.add(digest)

    def forget_alike(self, token: str) -> None:
        """This token stands for something else from now on."""
        self._received.pop(token, None)

    def namespace(
        self, program: str, name: str, base: dict[str, Any], spec: str | None
    ) -> dict[str, Any]:
        """The globals that the functions of a module of a program share in this process.

        The program that spoke last is what ``__main__`` is here: processes that its filters start
        find there what they look for.

        Args:
            program: The process that defined them.
            name: The module.
            base: What it begins with, such as its ``__file__``.
            spec: The name by which it was run as a module, if it was.
        """
        with self.lock:
            module = self._namespaces.get((program, name))
            if module is None:
                module = self._namespaces[program, name] = ModuleType(name)
                if len(self._namespaces) > _MOST_NAMESPACES:
                    self._namespaces.popitem(last=False)
            vars(module).update(base)
            if spec is not None:
                module.__spec__ = ModuleSpec(spec, None)
            self._namespaces.move_to_end((program, name))
            if name == "__main__":
                sys.modules[name] = module
            return vars(module)


_MOST_NAMESPACES = 64  # of programs that a worker has served, the last ones


def origin(token: str) -> str:
    """The process that gave a token."""
    return token.partition(".")[0]


registry = _Registry()


def become_worker() -> None:
    """From now on this process runs the code of other programs: it is a worker of theirs."""
    registry.in_worker = True
