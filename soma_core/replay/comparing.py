"""Comparing two replies as they were on the wire; nothing in them is unpickled."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from soma_core.client.recording.entries import LeftOut
from soma_core.wire.json_text import read_json
from soma_core.wire.message import Dialect, Message
from soma_core.wire.readable import readable

_OF_THE_PROCESS = frozenset(
    {"pid", "incarnation", "versions", "features", "codecs", "limits", "meta", "traceback"}
)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")
_LONGEST = 60  # characters of a value that is shown
_MISSING = "(nothing)"
_PICKLE = "__pickle_b64__"
_STATE = "state_b64"


class Difference(NamedTuple):
    """How two replies differ.

    Attributes:
        text: Where, and what was there and is there now.
        certain: False if only the bytes of a pickle differ: two processes may pickle equal
            objects differently, and nothing is unpickled to find out.
    """

    text: str
    certain: bool = True


def difference(recorded: Message, now: Message) -> Difference | None:
    """How a reply differs from the recorded one; None if it does not.

    What belongs to the process is passed over: pid, incarnation, versions, features, codecs,
    limits, what plugins say, tracebacks, and addresses in the text of an error.
    """
    found: Difference | None = None
    for found in _differences(recorded, now):
        if found.certain:
            return found
    return found


def _differences(recorded: Message, now: Message) -> Iterator[Difference]:
    before, after = _content(recorded), _content(now)
    pickled_state = isinstance(before, dict) and before.get("format") == "cloudpickle"
    for path, old, new in _differing(before, after, ""):
        pickled = path.endswith(_PICKLE) or (path == _STATE and pickled_state)
        if pickled and _are_bytes(old) and _are_bytes(new):
            yield _pickles_differ(path)
        else:
            yield Difference(f"{path or 'the reply'}: {_short(old)}, now {_short(new)}")
    if len(recorded.buffers) != len(now.buffers):
        yield Difference(f"{len(recorded.buffers)} buffers, now {len(now.buffers)}")
    places = dict(_places(before, ""))
    for index, (old, new) in enumerate(zip(recorded.buffers, now.buffers, strict=False)):
        place = places.get(index, _Place(f"buffer {index}", "", {}))
        how = _differing_buffer(place, old, new)
        if how is None:
            continue
        if place.tag == "Object" or (place.path == _STATE and pickled_state):
            yield _pickles_differ(place.path)
        else:
            yield Difference(f"{place}: {how}")


def _pickles_differ(path: str) -> Difference:
    return Difference(f"{path}: a pickle of other bytes, which is not read", certain=False)


def _content(message: Message) -> Any:
    is_frame = message.dialect is Dialect.FRAME
    content = readable(message.header) if is_frame else read_json(message.header)
    if not isinstance(content, dict):
        return content
    kept = {name: field for name, field in content.items() if name not in _OF_THE_PROCESS}
    if isinstance(kept.get("error"), str):
        kept["error"] = _ADDRESS.sub("0x…", kept["error"])
    return kept


def _differing(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (*old, *(key for key in new if key not in old)):
            inner = f"{path}.{key}" if path else key
            yield from _differing(old.get(key, _MISSING), new.get(key, _MISSING), inner)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"length of {path}", len(old), len(new)
        for index, (left, right) in enumerate(zip(old, new, strict=False)):
            yield from _differing(left, right, f"{path}[{index}]")
    elif type(old) is not type(new) or (old != new and not _both_nan(old, new)):
        yield path, old, new


def _both_nan(old: Any, new: Any) -> bool:
    return isinstance(old, float) and math.isnan(old) and math.isnan(new)


def _are_bytes(value: Any) -> bool:
    """Whether it is what bytes are in a message: base64 in a line, themselves in a frame."""
    return isinstance(value, str | bytes) and value is not _MISSING


class _Place(NamedTuple):
    """Where in a message a buffer belongs, and what says how to read it."""

    path: str
    tag: str
    data: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.path} ({self.tag})" if self.tag else self.path


def _places(content: Any, path: str) -> Iterator[tuple[int, _Place]]:
    if isinstance(content, list):
        for index, item in enumerate(content):
            yield from _places(item, f"{path}[{index}]")
    elif isinstance(content, dict):
        data = content.get("data")
        if isinstance(data, dict) and content.keys() == {"type", "data"}:
            several = data.get("buffers")
            for index in (data.get("buffer"), *(several if isinstance(several, list) else ())):
                if isinstance(index, int):
                    yield index, _Place(path, str(content["type"]), data)
        for key, item in content.items():
            yield from _places(item, f"{path}.{key}" if path else key)


def _differing_buffer(place: _Place, old: Any, new: Any) -> str | None:
    new_size = memoryview(new).nbytes
    if isinstance(old, LeftOut):
        same = old.size == new_size and old.sha256 == hashlib.sha256(new).hexdigest()
        return None if same else "another content than that of the buffer that was left out"
    if old == memoryview(new).cast("B") if new_size else not old:
        return None
    if len(old) != new_size:
        return f"{len(old):,} bytes, now {new_size:,}"
    return _differing_numbers(place.data, old, new) or "other bytes"


def _differing_numbers(data: Mapping[str, Any], old: Any, new: Any) -> str | None:
    """How many numbers of an array differ, and by how much; None if it is not one of numbers."""
    try:
        dtype = np.dtype(data.get("dtype", "V"))
        if dtype.kind not in "biufc":
            return None
        before, after = (np.frombuffer(side, dtype) for side in (old, new))
    except (TypeError, ValueError):
        return None
    changed = ~((before == after) | ((before != before) & (after != after)))
    counted = f"{np.count_nonzero(changed):,} of {before.size:,} values differ"
    wide: Sequence[Any] = [side[changed].astype("c16") for side in (before, after)]
    with np.errstate(all="ignore"):
        most = float(np.max(np.abs(wide[0] - wide[1]), initial=0.0))
    return f"{counted}, by at most {most:g}"


def _short(value: Any) -> str:
    text = value if value is _MISSING else repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
