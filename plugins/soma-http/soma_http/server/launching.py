"""Starting the worker of one WebSocket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Literal

from soma_core.streams import StreamLimits
from soma_core.tooling import installed_transports
from soma_core.transport import OutputLine, OutputPump, Transport, WorkerProcess, thread_limits
from soma_http.server.config import WorkersConfig

Policy = Literal["same-user", "never"]


class WorkerLauncher:
    """Starts workers as the configuration says."""

    def __init__(self, config: WorkersConfig, limits: StreamLimits, *, pickles: bool) -> None:
        self._config = config
        self._limits = limits
        self._pickles = pickles

    def launch(
        self,
        pickle: Policy,
        threads: int | None,
        printed: Callable[[OutputLine], object] | None,
    ) -> tuple[WorkerProcess, socket.socket]:
        """Start one, and return our end of its stdin and stdout too, while it still imports.

        Args:
            pickle: What the client wants; the server may refuse pickles all the same.
            threads: Threads of its numerical libraries; None for what the configuration says.
            printed: Called with what it prints; None shows that on this process's stderr.

        Raises:
            StartFailed: It cannot be started.
        """
        allowed = pickle == "same-user" and self._pickles
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = WorkerProcess(
                    self._command("same-user" if allowed else "never"),
                    output=OutputPump(printed or "stderr"),
                    wire=theirs.fileno(),
                    env=self._environment(threads),
                    cwd=self._config.cwd,
                )
            except BaseException:
                ours.close()
                raise
        return process, ours

    def transport(self) -> Transport:
        """A way to start one by a channel, which reads and makes no pickles."""
        config = self._config
        stdio: type[Any] = installed_transports().load("stdio")
        return stdio(  # type: ignore[no-any-return]
            stdio.Options(
                python=config.python,
                env=self._environment(None),
                cwd=config.cwd,
                memory_limit=config.memory_limit,
                nice=config.nice,
                pickle="never",
                output="devnull",
            )
        )

    def _environment(self, threads: int | None) -> dict[str, str]:
        config = self._config
        wanted = [number for number in (threads, config.threads) if number is not None]
        modules = ",".join(config.allow_modules)
        return {
            **thread_limits(min(wanted, default=None)),
            **({"SOMA_ALLOW_MODULES": modules} if modules else {}),
            "SOMA_DATA_FILES": "" if config.data_files else "never",
            "SOMA_FILTER_FILES": "" if config.filter_files else "never",
            **self._limits.as_environment(),
            **config.env,
        }

    def _command(self, pickle: Policy) -> list[str]:
        config = self._config
        command = [str(config.python), "-P", "-m", "soma_transport_stdio", f"--pickle={pickle}"]
        if config.memory_limit is not None:
            command.append(f"--memory-limit={config.memory_limit}")
        if config.nice:
            command.append(f"--nice={config.nice}")
        return command
