"""Reads TensorBoard events."""

import struct


def read(folder):
    """The values in the events of a folder, without purged ones, as {(tag, step): the value of the protocol buffer}."""
    from tensorboardX.proto import event_pb2

    found = {}
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)  # then its checksum, the record, and its checksum
            event = event_pb2.Event.FromString(content[position + 12 : position + 12 + length])
            position += 12 + length + 4
            if event.HasField("session_log"):  # an earlier start is purged from this step on
                found = {key: value for key, value in found.items() if key[1] < event.step}
            found |= {(value.tag, event.step): value for value in event.summary.value}
    return found
