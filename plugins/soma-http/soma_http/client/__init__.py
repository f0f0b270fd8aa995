"""The host's side: the transport, and the WebSocket that it speaks over."""
