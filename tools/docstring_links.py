"""What the site makes of our docstrings: roles of Sphinx become links, literal blocks stay code."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["DocstringLinks"]

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`")
_PAGE = re.compile(r":doc:`(\w+)`")
_BLOCK = re.compile(r"^([ ]*)(.*)::[ ]*$", re.MULTILINE)


class DocstringLinks(griffe.Extension):
    """Rewrites each docstring as it is read.

    A name that has a page of its own becomes a link to it; another stays a name.
    """

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for each object that it found."""
        if obj.docstring is not None:
            obj.docstring.value = _as_markdown(obj.docstring.value, obj)


def _as_markdown(text: str, obj: griffe.Object) -> str:
    linked = _ROLE.sub(lambda found: _link(found[1], found[2], obj), text)
    paged = _PAGE.sub(r"[\1](../../\1.md)", linked)
    return _BLOCK.sub(_introduction, paged)


def _link(short: str, name: str, obj: griffe.Object) -> str:
    title = name.rpartition(".")[2] if short else name
    target = name if name.startswith("soma_core") else _scope(obj).path + "." + name
    return f'<autoref identifier="{target}" optional><code>{title}</code></autoref>'


def _scope(obj: griffe.Object) -> griffe.Object:
    """Where a bare name in a docstring is looked up: the class, else the module."""
    here: griffe.Object = obj
    while not (here.is_class or here.is_module) and here.parent is not None:
        here = here.parent
    return here


def _introduction(found: re.Match[str]) -> str:
    """``text::`` before a literal block is ``text:``; ``::`` alone is nothing."""
    indent, text = found.groups()
    return f"{indent}{text}:" if text else ""
