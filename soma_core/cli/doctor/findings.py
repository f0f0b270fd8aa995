"""Findings: what the facts mean, and for each problem what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from soma_core.cli.doctor.facts import SHARED_DIRECTORY, Facts, Requirement, RoundTrip, TripOutcome
from soma_core.models.brief import size

_LEAST_PYTHON = (3, 11)
_FEW_FILES = 1024
_SMALL_ADDRESS_SPACE = 8 << 30
_SMALL_SHARED_DIRECTORY = 128 << 20
_SLOW_PING = 0.005
_DEFAULT_TRANSPORT = "stdio"


class Level(StrEnum):
    """How serious a finding is: no problem, advice, or broken."""

    OK = "ok"
    ADVICE = "advice"
    WRONG = "wrong"


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        area: The part of the examination.
        subject: What was looked at.
        level: How much it matters.
        found: What was found.
        remedy: What to do about it; empty if there is nothing to do.
    """

    area: str
    subject: str
    level: Level
    found: str
    remedy: str = ""


def examine(facts: Facts) -> list[Finding]:
    """Judge the facts, in the order in which a person would fix them."""
    parts = (_interpreter, _versions, _plugins, _memory, _limits, _threads, _transports)
    return [finding for part in parts for finding in part(facts)]


def _interpreter(facts: Facts) -> Iterator[Finding]:
    python = facts.interpreter
    version = ".".join(map(str, python.version))
    found = f"{python.implementation} {version} at {python.executable}"
    if python.version[:2] < _LEAST_PYTHON:
        remedy = "install Python 3.11 or newer, and soma-core into an environment of it"
        yield Finding("interpreter", "python", Level.WRONG, found, remedy)
    elif python.implementation != "CPython":
        remedy = "soma is tested with CPython alone; use it if something fails"
        yield Finding("interpreter", "python", Level.ADVICE, found, remedy)
    else:
        yield Finding("interpreter", "python", Level.OK, found)
    yield _system(python.system)


def _system(system: str) -> Finding:
    if system == "Linux":
        return Finding("interpreter", "system", Level.OK, system)
    if system == "Darwin":
        remedy = "works without seals, lifelines, sessions and --preload; Linux has them"
        return Finding("interpreter", "system", Level.ADVICE, "macOS", remedy)
    return Finding("interpreter", "system", Level.WRONG, system, "use Linux, macOS or WSL")


def _versions(facts: Facts) -> Iterator[Finding]:
    if facts.requirements:
        yield Finding("versions", "soma-core", Level.OK, facts.soma)
    else:
        remedy = "pip install it (pip install -e . in a source tree), or no transport is found"
        yield Finding("versions", "soma-core", Level.WRONG, "is not installed", remedy)
    yield Finding("versions", "protocol", Level.OK, str(facts.protocol))
    for requirement in facts.requirements:
        yield _requirement(requirement)


def _requirement(requirement: Requirement) -> Finding:
    name, versions, installed, extra = requirement
    remedy = f"pip install '{name}{versions}'"
    if installed is None:
        if extra is None:
            return Finding("versions", name, Level.WRONG, "is not installed", remedy)
        found = f"is not installed; only filters that use {extra} need it"
        return Finding("versions", name, Level.OK, found)
    if not requirement.satisfied:
        found = f"{installed}, and soma needs {versions}"
        return Finding("versions", name, Level.WRONG, found, remedy)
    return Finding("versions", name, Level.OK, installed)


def _plugins(facts: Facts) -> Iterator[Finding]:
    broken = [report for report in facts.plugins if report.broken]
    for report in broken:
        subject = f"{report.info.name} of {report.info.distribution}"
        remedy = (
            f"pip uninstall one of {', '.join(report.info.conflict)}"
            if report.info.conflict
            else f"reinstall or update {report.info.distribution}, or uninstall it"
        )
        yield Finding("plugins", subject, Level.WRONG, report.failure or "", remedy)
    working = sum(report.failure is None for report in facts.plugins)
    if not facts.plugins:
        remedy = "pip install soma-core: its transports are plugins too"
        yield Finding("plugins", "installed", Level.WRONG, "none", remedy)
    else:
        yield Finding("plugins", "installed", Level.OK, f"{working} of {len(facts.plugins)} work")


def _memory(facts: Facts) -> Iterator[Finding]:
    subject = "sealed memory files"
    if facts.sealed_memory is None:
        yield Finding("shared memory", subject, Level.OK, "work: large arrays go through them")
        return
    remedy = (
        "everything works, and large arrays are copied through the socket: allow memfd_create "
        "and F_ADD_SEALS in the container's seccomp profile to get them"
    )
    yield Finding("shared memory", subject, Level.ADVICE, facts.sealed_memory, remedy)


def _limits(facts: Facts) -> Iterator[Finding]:
    yield _at_least(
        "open files",
        facts.open_files,
        _FEW_FILES,
        str,
        "ulimit -n 4096: a worker needs about ten descriptors, each large array in use one more",
    )
    yield _at_least(
        "address space",
        facts.address_space,
        _SMALL_ADDRESS_SPACE,
        size,
        "ulimit -v unlimited: libraries reserve far more than they use; limit a worker's own "
        "memory with soma serve socket --memory-limit instead",
    )
    if facts.shared_directory is not None:
        yield _at_least(
            SHARED_DIRECTORY,
            facts.shared_directory,
            _SMALL_SHARED_DIRECTORY,
            lambda free: f"{size(free)} free",
            "soma does not use it, torch's data loaders do: docker run --shm-size=1g",
        )


def _at_least(
    subject: str, limit: int | None, least: int, show: Callable[[int], str], remedy: str
) -> Finding:
    if limit is None:
        return Finding("limits", subject, Level.OK, "unlimited")
    if limit < least:
        return Finding("limits", subject, Level.ADVICE, show(limit), remedy)
    return Finding("limits", subject, Level.OK, show(limit))


def _threads(facts: Facts) -> Iterator[Finding]:
    granted = facts.cores if facts.quota is None else min(facts.cores, facts.quota)
    found = f"{facts.cores} cores"
    if facts.quota is not None:
        found += f", of which a control group grants the time of {facts.quota:g}"
    yield Finding("threads", "cores", Level.OK, found)
    for library in facts.blas:
        threads = f"{library.threads} {'thread' if library.threads == 1 else 'threads'}"
        if library.threads > max(1, granted):
            remedy = (
                f"more threads than cores wait for each other: connect with "
                f"threads={max(1, int(granted))}, or set OMP_NUM_THREADS"
            )
            yield Finding("threads", library.name, Level.ADVICE, threads, remedy)
        else:
            yield Finding("threads", library.name, Level.OK, threads)


def _transports(facts: Facts) -> Iterator[Finding]:
    for trip in facts.round_trips:
        yield _round_trip(trip)


def _round_trip(trip: RoundTrip) -> Finding:
    area, name = "transports", trip.transport
    if trip.outcome is TripOutcome.TIMED:
        found = f"starts in {trip.start * 1e3:.0f} ms, round trip {trip.ping * 1e6:.0f} us"
        if trip.ping < _SLOW_PING:
            return Finding(area, name, Level.OK, found)
        remedy = "usual are some 100 us: look for other load on the machine (top)"
        return Finding(area, name, Level.ADVICE, found, remedy)
    if trip.outcome is TripOutcome.NEEDS_OPTIONS:
        remedy = f"not tried; soma.connect({name!r}, ...) needs them"
        return Finding(area, name, Level.OK, trip.reason, remedy)
    if trip.outcome is TripOutcome.DID_NOT_START and name != _DEFAULT_TRANSPORT:
        remedy = f"if you use it, start its daemon first: soma serve {name}"
        return Finding(area, name, Level.ADVICE, trip.reason, remedy)
    remedy = (
        f"soma plugins {name} shows its distribution; reinstall that, or report the problem there"
    )
    return Finding(area, name, Level.WRONG, trip.reason, remedy)
