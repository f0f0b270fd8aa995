"""MessageParser: the same messages however the bytes are cut, and an end whatever they are."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.transport import Dialect, Message
from soma_core.wire import frames
from soma_core.wire.parser import MessageParser, StreamLimits

Outcome = tuple[Any, ...]


def line(text: bytes) -> Outcome:
    return ("line", text)


def frame(header: bytes, *buffers: bytes) -> Outcome:
    return ("frame", header, *buffers)


def error(code: ErrorCode) -> Outcome:
    return ("error", code)


MALFORMED, TOO_LARGE = error(ErrorCode.MALFORMED), error(ErrorCode.TOO_LARGE)


def drain(parser: MessageParser) -> Iterable[Outcome]:
    while (outcome := outcome_of(parser.next_message)) is not None:
        yield outcome


def outcome_of(step: Callable[[], Message | None]) -> Outcome | None:
    """What one step of a parser gave: a message, an error, or nothing yet."""
    try:
        message = step()
    except ProtocolError as problem:
        return error(problem.code)
    if message is None:
        return None
    header, buffers = bytes(message.header), [bytes(buffer) for buffer in message.buffers]
    assert all(not memoryview(buffer).readonly for buffer in message.buffers)
    if message.dialect is Dialect.LINE:
        assert not buffers
        return line(header)
    return frame(header, *buffers)


def deliver(parser: MessageParser, piece: bytes) -> Iterable[Outcome]:
    """Hand over bytes as a channel does: into the parser's target where it has one."""
    left = memoryview(piece)
    while left and not parser.finished:
        target = parser.target
        count = min(len(target), len(left)) if target else len(left)
        if target:
            target[:count] = left[:count]
            yield from noted(lambda count=count: parser.filled(count))
        else:
            yield from noted(lambda piece=left[:count]: parser.feed(piece))
        left = left[count:]
        yield from drain(parser)


def noted(step: Callable[[], Message | None]) -> Iterable[Outcome]:
    outcome = outcome_of(step)
    return [] if outcome is None else [outcome]


def end(parser: MessageParser) -> Iterable[Outcome]:
    return noted(lambda: parser.feed(memoryview(b"")))


def parse(pieces: Iterable[bytes], limits: StreamLimits | None = None) -> list[Outcome]:
    parser = MessageParser(limits or StreamLimits())
    outcomes = list(drain(parser))
    for piece in pieces:
        outcomes += deliver(parser, piece)
    outcomes += [*end(parser), *drain(parser)]
    assert parser.finished
    return outcomes


def written(header: bytes, *buffers: bytes) -> bytes:
    return frames.write_frame(header, [inline(len(buffer)) for buffer in buffers]) + b"".join(
        buffers
    )


def inline(size: int) -> frames.TableEntry:
    return frames.TableEntry(frames.EntryKind.INLINE, 0, 0, size)


def entry(size: int, kind: int = 0, region: int = 0, generation: int = 0) -> bytes:
    return struct.pack("<IIQQ", kind, region, generation, size)


def preamble(header: int, count: int, body: int, version: int = 2) -> bytes:
    fields = struct.pack("<5sBHIIQ", frames.MAGIC, version, 0, header, count, body)
    return fields + struct.pack("<I", zlib.crc32(fields))


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    ends = [0, *sorted({place % (len(stream) + 1) for place in places}), len(stream)]
    return [stream[start:end] for start, end in pairwise(ends)]


TEXTS = st.binary(min_size=1, max_size=20).map(
    lambda raw: b"{" + raw.replace(b"\n", b" ") + b"}"
) | st.sampled_from([b"\x93", b"\x93SOM}", b"{\x93SOMA}", b"\x93SOMB" + b"x" * 40, b"\xef\xbb"])
LINES = st.tuples(
    TEXTS,
    st.sampled_from([b"", b" ", b"\t \r"]),
    st.sampled_from([b"\n", b"\r\n", b" \r\n", b"\n\n\n"]),
).map(lambda parts: (parts[1] + parts[0] + parts[2], [line(parts[0])]))
FRAMES = st.tuples(st.binary(max_size=20), st.lists(st.binary(max_size=30), max_size=3)).map(
    lambda parts: (written(parts[0], *parts[1]), [frame(parts[0], *parts[1])])
)
BLANKS = st.sampled_from([b"\n", b"\r\n", b" \t\n", b"\xef\xbb\xbf\n"]).map(lambda raw: (raw, []))
LIES = st.sampled_from(
    [
        (preamble(5, 0, 3) + b"\n{}", [MALFORMED]),  # a header longer than the body
        (preamble(0, 3, 10) + b"\n" * 10, [MALFORMED]),  # a table longer than the body
        (preamble(2, 1, 29) + b"{}" + entry(4) + b"abc", [MALFORMED]),
        (preamble(2, 1, 29) + b"{}" + entry(2**64 - 1) + b"abc", [MALFORMED]),
        (preamble(2, 1, 29) + b"{}" + entry(3, kind=5) + b"abc", [MALFORMED]),
        (preamble(2, 1, 29) + b"{}" + entry(3, kind=2**32 - 1) + b"abc", [MALFORMED]),
        (preamble(2, 1, 26) + b"{}" + entry(3, kind=1), [MALFORMED]),  # no memory is shared here
        (preamble(2, 0, 6) + b"{}\x93SO\n", [MALFORMED]),  # bytes that no buffer claims
        (preamble(2**32 - 1, 2**32 - 1, 3) + b"\n\n\n", [MALFORMED]),
    ]
)
OFFERS = st.sampled_from(
    [
        (preamble(2, 1, 26) + b"{}" + entry(9, kind), [frame(b"{}")])  # understood, and ignored
        for kind in (2, 3, 4)
    ]
)
PARTS = st.lists(LINES | FRAMES | BLANKS | LIES | OFFERS, max_size=6)
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(parts=PARTS, cuts=CUTS)
@example(parts=[(written(b"{}", b"abc"), [frame(b"{}", b"abc")])], cuts=list(range(60)))
def test_messages_are_the_same_however_the_stream_is_cut(parts: Any, cuts: list[int]) -> None:
    stream = b"".join(raw for raw, _ in parts)
    expected = [outcome for _, outcomes in parts for outcome in outcomes]
    assert parse(cut(stream, cuts)) == expected
    assert parse([stream[at : at + 1] for at in range(len(stream))]) == expected


@given(parts=PARTS, cuts=CUTS, last=TEXTS.filter(lambda text: text.strip()))
def test_a_last_line_needs_no_end(parts: Any, cuts: list[int], last: bytes) -> None:
    stream = b"".join(raw for raw, _ in parts) + last
    assert parse(cut(stream, cuts))[-1] == line(last)


def test_whitespace_and_a_byte_order_mark_around_a_line_are_ignored() -> None:
    assert parse([b'\xef\xbb\xbf {"a":1}\t\r\n']) == [line(b'{"a":1}')]
    assert parse([b' \xef\xbb\xbf{"a":1}\n']) == [line(b'{"a":1}')]


def test_lines_are_split_on_line_feeds_alone() -> None:
    text = '{"a":"\u2028\u2029\x85\x0b\x0c\r!"}'.encode()
    assert parse([text + b"\n"]) == [line(text)]


def test_blank_lines_are_no_messages() -> None:
    assert parse([b"\n\r\n   \n\t\n", b"", b"\n"]) == []


def test_half_a_magic_is_a_line() -> None:
    for length in range(1, 5):
        text = frames.MAGIC[:length]
        assert parse([text]) == [line(text)]
        assert parse([text + b"\n{}\n"]) == [line(text), line(b"{}")]
        assert parse([text + b"x{}\n"]) == [line(text + b"x{}")]


@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_a_line_over_the_limit_is_one_error_and_skipped_to_its_end(pieces: int) -> None:
    limits = StreamLimits(line=10)
    stream = b"{}\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\n" + b"z" * 500 + b"\n{}\n"
    step = -(-len(stream) // pieces)
    cuts = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert parse(cuts, limits) == [
        line(b"{}"),
        TOO_LARGE,
        line(b"y" * 10),
        TOO_LARGE,
        line(b"{}"),
    ]


@given(size=st.integers(0, 30), cuts=CUTS, ended=st.booleans())
def test_the_limit_of_a_line_does_not_depend_on_how_it_came(
    size: int, cuts: list[int], ended: bool
) -> None:
    stream = b"x" * size + (b"\n" if ended else b"")
    expected = [TOO_LARGE] if size > 10 else [line(b"x" * size)] if size else []
    assert parse(cut(stream, cuts), StreamLimits(line=10)) == expected


def test_a_line_over_the_limit_that_never_ends_is_an_error_once_and_is_not_kept() -> None:
    parser = MessageParser(StreamLimits(line=100))
    outcomes: list[Outcome] = []
    for _ in range(50):
        outcomes += deliver(parser, b"x" * 90)
    assert outcomes == [TOO_LARGE]
    assert [*end(parser), *drain(parser)] == []
    assert parser.finished


def test_a_frame_over_a_limit_is_skipped_and_the_stream_goes_on() -> None:
    limits = StreamLimits(line=50, header=30, body=100)
    for stream in (
        written(b"h" * 31) + b"{}\n",
        written(b"h", b"b" * 76) + b"{}\n",
        written(b"h" * 7, b"") + b"{}\n",  # the table counts as header
        written(b"h" * 15_000) + b"{}\n",
    ):
        assert parse([stream], limits) == [TOO_LARGE, line(b"{}")]
        assert parse([stream[at : at + 7] for at in range(0, len(stream), 7)], limits) == [
            TOO_LARGE,
            line(b"{}"),
        ]
    fits = written(b"h" * 6, b"b" * 70)
    assert parse([fits], limits) == [frame(b"h" * 6, b"b" * 70)]
    assert parse([written(b"h" * 30)], limits) == [frame(b"h" * 30)]


def test_a_frame_that_claims_more_than_there_is_memory_for_is_too_large() -> None:
    """The limit may be set above what the machine has: that costs a reply and not the worker."""
    size = 1 << 61
    stream = preamble(2, 1, 2 + 24 + size) + b"{}" + entry(size)
    parser = MessageParser(StreamLimits(body=1 << 62))
    assert list(noted(lambda: parser.feed(memoryview(stream)))) == [TOO_LARGE]


@pytest.mark.parametrize(
    "start",
    [
        bytes(range(147, 148)) + b"SOMA" + bytes(23),
        preamble(2, 0, 2, version=9),
        written(b"{}")[:27] + b"\x00",
    ],
    ids=["zeros", "another version", "checksum"],
)
def test_an_unsound_preamble_is_one_error_and_the_end(start: bytes) -> None:
    assert parse([start + b"{}\n" + written(b"{}") + b"{}\n"]) == [MALFORMED]


@given(cuts=CUTS, length=st.integers(1, 87))
def test_a_stream_that_ends_within_a_frame_is_malformed(cuts: list[int], length: int) -> None:
    whole = written(b"{..}{", b"ab", b"cdefg")
    assert len(whole) == 88
    start = whole[:length]
    expected = [MALFORMED] if length >= len(frames.MAGIC) else [line(start)]
    assert parse(cut(start, cuts)) == expected


@pytest.mark.parametrize("late", [b"{}\n", written(b"{}"), written(b"{}", b"abc")], ids=repr)
def test_nothing_comes_after_the_end(late: bytes) -> None:
    parser = MessageParser(StreamLimits())
    assert [*end(parser)] == []
    assert parser.finished
    assert parser.feed(memoryview(late)) is None


def test_buffers_are_read_into_directly() -> None:
    parser = MessageParser(StreamLimits())
    stream = written(b"{}", b"x" * 100)
    assert parser.feed(memoryview(stream[:-60])) is None
    assert len(parser.target) == 60
    parser.target[:60] = b"y" * 60
    message = parser.filled(60)
    assert message is not None
    assert bytes(message.buffers[0]) == b"x" * 40 + b"y" * 60
    assert not parser.target


PIECES = st.lists(
    st.binary(max_size=40)
    | st.sampled_from([frames.MAGIC, frames.MAGIC[:3], b"\n", b"{}\n", b"\xef\xbb\xbf"])
    | st.tuples(st.integers(0, 40), st.integers(0, 4), st.integers(0, 80)).map(
        lambda numbers: preamble(*numbers)
    )
    | st.tuples(
        st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
    ).map(lambda numbers: preamble(*numbers)),
    max_size=8,
)


@given(pieces=PIECES)
def test_any_bytes_end_in_messages_and_protocol_errors(pieces: list[bytes]) -> None:
    limits = StreamLimits(line=60, header=60, body=200)
    whole = parse([b"".join(pieces)], limits)
    assert all(outcome[0] in ("line", "frame", "error") for outcome in whole)
    assert parse(pieces, limits) == whole


def test_long_random_streams_end_too() -> None:
    generator = random.Random(7)
    alphabet = [b"\n", b"{}", frames.MAGIC, b"\x93", b" ", b"\x00" * 9, written(b"{}", b"abc")]
    for _ in range(200):
        stream = b"".join(generator.choices(alphabet, k=40)) + generator.randbytes(20)
        step = generator.randint(1, 50)
        cuts = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert parse(cuts) == parse([stream])


@pytest.mark.parametrize("field", ["line", "header", "body"])
def test_a_limit_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        StreamLimits(**{field: 0})
