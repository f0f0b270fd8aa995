"""Opening: something to be opened in an event loop, by ``await`` or by ``async with``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, NoReturn, Protocol, TypeVar

__all__ = ["Opening"]


class _Closeable(Protocol):
    async def close(self) -> None:
        """Close it."""


T = TypeVar("T", bound=_Closeable)


class Opening(Generic[T]):
    """What ``soma.connect_async`` returns: awaited it gives the worker, which you close.

    With ``async with`` the worker is closed at the end of the block.
    """

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._start = start
        self._started = False
        self._opened: T | None = None

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"soma.connect_async(…) has no {name} yet: use it as `async with soma.connect_async(…) "
            "as worker:`, or await it"
        )

    def __await__(self) -> Generator[Any, Any, T]:
        if self._started:
            raise RuntimeError("this was awaited already; call soma.connect_async again")
        self._started = True
        return self._start().__await__()

    async def __aenter__(self) -> T:
        self._opened = await self
        return self._opened

    async def __aexit__(self, *error: object) -> None:
        if self._opened is not None:
            await self._opened.close()
