"""Facts: what can be observed of this installation and machine, without judging it."""

from __future__ import annotations

import fcntl
import importlib.metadata
import mmap
import os
import platform
import resource
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from packaging import requirements
from packaging.specifiers import SpecifierSet

from soma_core.channel.threads import available_cores
from soma_core.cli.plugins import PluginReport, inspect_plugins
from soma_core.client.connect import connect
from soma_core.errors import SomaError, StartFailed
from soma_core.plugins.catalog import installed_transports
from soma_core.protocol.versions import PROTOCOL_VERSION, soma_version

_OURS = "soma-core"
_PINGS = 50
SHARED_DIRECTORY = "/dev/shm"  # noqa: S108 - looked at, never written to
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_EXTRAS = ("", "torch")  # the others are for soma's own developers


class Interpreter(NamedTuple):
    """The Python that runs, and where it runs."""

    implementation: str
    version: tuple[int, int, int]
    executable: str
    system: str


class Requirement(NamedTuple):
    """A distribution that soma-core names in its metadata.

    Attributes:
        name: The distribution.
        versions: The versions that soma accepts, such as ``>=2.0``.
        installed: The version that is installed, or None.
        extra: The extra that needs it; None if soma cannot do without.
    """

    name: str
    versions: str
    installed: str | None
    extra: str | None

    @property
    def satisfied(self) -> bool:
        """Whether a version is installed that soma accepts."""
        return self.installed is not None and SpecifierSet(self.versions).contains(
            self.installed, prereleases=True
        )


class BlasLibrary(NamedTuple):
    """A numerical library that was loaded with numpy, and how many threads it uses."""

    name: str
    threads: int


class TripOutcome(Enum):
    """How an attempt to use a transport ended."""

    TIMED = "timed"
    NEEDS_OPTIONS = "needs options"
    DID_NOT_START = "did not start"
    FAILED = "failed"


class RoundTrip(NamedTuple):
    """One attempt to use a transport with its default options.

    Attributes:
        transport: Its name.
        outcome: How the attempt ended.
        start: Seconds until the first reply.
        ping: The median round trip in seconds.
        reason: Why there is no time.
    """

    transport: str
    outcome: TripOutcome
    start: float = 0.0
    ping: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything that the doctor looks at.

    Attributes:
        interpreter: The Python that runs.
        soma: soma's version.
        protocol: The version of the protocol that it speaks.
        requirements: The distributions that it names in its metadata.
        plugins: What is installed, and why it does not work if it does not.
        sealed_memory: Why sealed memory files do not work here; None if they do.
        open_files: The soft limit on open files; None if there is none.
        address_space: The soft limit on address space in bytes; None if there is none.
        shared_directory: Bytes free in ``/dev/shm``; None if there is no such directory.
        cores: How many cores this process may use.
        quota: The processor time that a control group grants, in cores; None if it has no limit.
        blas: The numerical libraries that numpy loaded.
        round_trips: An attempt over each transport that can be loaded.
    """

    interpreter: Interpreter
    soma: str
    protocol: int
    requirements: tuple[Requirement, ...]
    plugins: tuple[PluginReport, ...]
    sealed_memory: str | None
    open_files: int | None
    address_space: int | None
    shared_directory: int | None
    cores: int
    quota: float | None
    blas: tuple[BlasLibrary, ...]
    round_trips: tuple[RoundTrip, ...]


def gather() -> Facts:
    """Look at this installation; imports every plugin, and starts a worker over each transport."""
    plugins = tuple(inspect_plugins())
    return Facts(
        interpreter=_interpreter(),
        soma=soma_version(),
        protocol=PROTOCOL_VERSION,
        requirements=read_requirements(_metadata(), _installed),
        plugins=plugins,
        sealed_memory=try_sealed_memory(),
        open_files=_soft_limit(resource.RLIMIT_NOFILE),
        address_space=_soft_limit(resource.RLIMIT_AS),
        shared_directory=_free(SHARED_DIRECTORY),
        cores=available_cores(),
        quota=processor_quota(_QUOTA),
        blas=tuple(_blas_libraries()),
        round_trips=tuple(time_transport(name) for name in _working_transports(plugins)),
    )


def _interpreter() -> Interpreter:
    return Interpreter(
        platform.python_implementation(),
        (sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        sys.executable,
        platform.system(),
    )


def _metadata() -> list[str]:
    try:
        return importlib.metadata.requires(_OURS) or []
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return []


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_requirements(
    lines: Iterable[str], installed: Callable[[str], str | None]
) -> tuple[Requirement, ...]:
    """Read what a distribution requires, leaving out what only its own developers need."""
    found = []
    for parsed in map(requirements.Requirement, lines):
        marker = parsed.marker
        extras = (one for one in _EXTRAS if marker is None or marker.evaluate({"extra": one}))
        extra = next(extras, None)
        if extra is not None:
            version = installed(parsed.name)
            found.append(Requirement(parsed.name, str(parsed.specifier), version, extra or None))
    return tuple(found)


def try_sealed_memory() -> str | None:
    """Make, seal and map a memory file as a channel does; why that fails, or None."""
    if not hasattr(os, "memfd_create"):
        return f"{platform.system()} has no memfd_create"
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    try:
        fd = os.memfd_create("soma-doctor", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    except OSError as error:
        return f"memfd_create: {error.strerror}"
    try:
        os.ftruncate(fd, mmap.PAGESIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        mmap.mmap(fd, mmap.PAGESIZE).close()
    except OSError as error:
        return f"a memory file cannot be sealed and mapped: {error.strerror}"
    finally:
        os.close(fd)
    return None


def _soft_limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _free(directory: str) -> int | None:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def processor_quota(path: Path) -> float | None:
    """The processor time that the control group of a ``cpu.max`` file grants, in cores.

    It holds ``max 100000`` or ``150000 100000``, in microseconds.
    """
    try:
        granted, _, period = path.read_text().partition(" ")
        return None if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no control groups, or of version 1
        return None


def _blas_libraries() -> list[BlasLibrary]:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))  # some libraries are loaded at their first use
    most: dict[str, int] = {}  # numpy, scipy and torch may each bring a copy of one library
    for loaded in threadpool_info():
        name = str(loaded["internal_api"])
        most[name] = max(most.get(name, 0), int(loaded["num_threads"]))
    return [BlasLibrary(name, threads) for name, threads in most.items()]


def _working_transports(plugins: Iterable[PluginReport]) -> list[str]:
    group = installed_transports().group
    return [
        report.info.name for report in plugins if report.group == group and report.failure is None
    ]


def time_transport(name: str, timeout: float = 30.0) -> RoundTrip:
    """Connect over a transport with its default options, and time the smallest command."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our user can do nothing about a plugin's deprecations
            with connect(name, start_timeout=timeout, timeout=timeout) as worker:
                worker.ping()
                start = time.perf_counter() - began
                pings = [_seconds(worker.ping) for _ in range(_PINGS)]
    except StartFailed as error:
        return RoundTrip(name, TripOutcome.DID_NOT_START, reason=str(error))
    except SomaError as error:
        return RoundTrip(name, TripOutcome.FAILED, reason=str(error))
    except (TypeError, ValueError) as error:
        return RoundTrip(name, TripOutcome.NEEDS_OPTIONS, reason=str(error))
    except Exception as error:  # a transport that is not ours may raise anything
        return RoundTrip(name, TripOutcome.FAILED, reason=f"{type(error).__name__}: {error}")
    return RoundTrip(name, TripOutcome.TIMED, start, statistics.median(pings))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
