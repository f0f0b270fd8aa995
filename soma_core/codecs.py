"""For plugin authors: types of their own, which travel as typed values instead of pickles."""

from soma_core.wire.added_types import Codec, Encoded, Unencodable

__all__ = ["Codec", "Encoded", "Unencodable"]
