"""``python -m soma_transport_socket``: the daemon, by its short name."""

from soma_transport_socket.daemon.__main__ import main

main()
