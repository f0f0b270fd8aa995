"""A pool of workers in an event loop: the rules of ``soma_core.client.pool``, awaited."""
