"""Frames, however they arrive."""

import os

import pytest

from bapo.reward.protocol import FrameReader, ProtocolError, encode, read_message, write_all


def test_frames_survive_being_cut_anywhere():
    messages = [[1, 0.5, ["ok", None, 1.0, "", False]], {"a": "é\ud800\n"}, []]
    stream = b"".join(encode(message) for message in messages)
    for size in (1, 2, 3, 7, len(stream)):
        reader = FrameReader()
        parts = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert [message for part in parts for message in reader.feed(part)] == messages


def test_the_first_byte_of_a_frame_is_not_a_message_yet():
    assert FrameReader().feed(encode([1])[:3]) == []


def test_a_frame_over_the_limit_is_refused_before_it_has_arrived():
    with pytest.raises(ProtocolError, match="a frame of 11 bytes"):
        FrameReader(limit=10).feed(b"\x00\x00\x00\x0b")


@pytest.mark.parametrize("body", [b"hello", b"\xff\xfe", b"[" * 100_000, b""])
def test_what_is_not_json_is_refused(body):
    with pytest.raises(ProtocolError, match="not JSON"):
        FrameReader().feed(len(body).to_bytes(4, "big") + body)


def test_a_message_is_read_from_a_pipe_until_its_end():
    read, write = os.pipe()
    try:
        write_all(write, encode({"a": [1, 2]}) + b"\x00\x00")
        os.close(write)
        assert read_message(read) == {"a": [1, 2]}
        with pytest.raises(EOFError):
            read_message(read)
    finally:
        os.close(read)
