"""soma over HTTP: a transport whose workers another machine runs, and a server of models."""

from soma_http.client.transport import HttpTransport
from soma_http.options import HttpOptions

__all__ = ["HttpOptions", "HttpTransport"]
