"""OpenTelemetry for soma: spans of calls in host and worker, and metrics of both."""

from __future__ import annotations

from soma_telemetry.on_demand import OnDemand

__all__ = ["SOMA_API_VERSION", "installed"]

SOMA_API_VERSION = 1

installed = OnDemand()
"""What the entry point names."""
