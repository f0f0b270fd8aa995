"""doctor: ``soma doctor``, problems of this installation, each with a remedy."""

from soma_core.cli.doctor.command import doctor

__all__ = ["doctor"]
