"""The Ray transport: the engine is an actor of a Ray cluster; arrays go by its object store."""

from soma_transport_ray.client import RayTransport
from soma_transport_ray.options import RayOptions

__all__ = ["RayOptions", "RayTransport"]
