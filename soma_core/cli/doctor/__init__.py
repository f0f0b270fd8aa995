"""doctor: ``soma doctor``, what is wrong with this installation and what to do about it."""

from soma_core.cli.doctor.command import doctor

__all__ = ["doctor"]
