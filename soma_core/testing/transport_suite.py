"""TransportConformance: every clause that a transport must meet, as tests to inherit."""

from __future__ import annotations

from soma_core.testing.transports.deaths import DeathClauses
from soma_core.testing.transports.lives import LifeClauses
from soma_core.testing.transports.messages import MessageClauses


class TransportConformance(LifeClauses, MessageClauses, DeathClauses):
    """What a transport must do, as tests: subclass it in a test module.

    ::

        class TestTcp(TransportConformance):
            transport = TcpTransport
            lacks = {Capability.INTERRUPTS: "no signal crosses TCP"}
            daemon = staticmethod(tcp_daemon)  # a context manager that yields {"port": ...}

    Where the options come from a fixture, override the class-scoped fixture ``options`` instead.

    Attributes:
        transport: The class, or the name under which it is installed.
        daemon: Returns a context manager that yields the options, for the time in which the
            tests run: where a daemon is needed, it runs for so long.
        lacks: What it does without, with the reason. Clauses that need it are skipped, and one
            clause asserts that it is really lacking.
        patience: Seconds after which what did not come counts as lost; what needs no computing
            gets a quarter of it. Raise it for a slow link.
    """
