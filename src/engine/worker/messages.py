"""Requests as the kernel sees them, and JSON as the client expects it."""

import json
import sys
from binascii import b2a_base64
from json import loads as _loads

OK = b'{"status":"ok"}'
NO_PARENT = b"{}"


class Message(dict):
    """A request in the shape of jupyter_client's messages. `raw_header` is its header as it came."""

    __slots__ = ("raw_header",)


class ApplyMessage(Message):
    """The apply_request being handled now: one object for all of them, renewed by each.

    To tell ipykernel's shell, display hook and publishers about a request costs as much as a small task. They are told
    of this one and of its header once; what they publish with it as the parent belongs to the request that
    `streams.Parents` says, as with text.
    """

    __slots__ = ("_raw_metadata",)

    def __init__(self):
        super().__init__(header={}, msg_type="apply_request", parent_header={}, content={}, buffers=())

    def renew(self, header, frames):
        self.raw_header = frames[0]
        self._raw_metadata = frames[1]
        own = self["header"]
        own.clear()
        own.update(header)
        self["msg_id"] = header["msg_id"]
        self.pop("metadata", None)

    def __missing__(self, key):
        if key != "metadata":
            raise KeyError(key)
        value = self["metadata"] = load(self._raw_metadata)
        return value


_scan = json.JSONDecoder().scan_once


def load_header(frame):
    """Parse a header as the engine writes it: no spaces before the object. A third of `load`'s cost."""
    return _scan(frame.decode() if type(frame) is bytes else bytes(frame).decode(), 0)[0]


def load(frame):
    """Parse a JSON frame; an empty one is an empty object."""
    if type(frame) is not bytes:
        frame = bytes(frame)
    return _loads(frame) if frame else {}


def request(raw_header, parent_header, metadata, content, buffers):
    header = load_header(raw_header)
    message = Message(
        header=header,
        msg_id=header["msg_id"],
        msg_type=header["msg_type"],
        parent_header=parent_header,
        metadata=metadata,
        content=content,
        buffers=buffers,
    )
    message.raw_header = raw_header
    return message


def _other(value):
    """What JSON has no word for: bytes (images) as base64, anything else as its text."""
    return b2a_base64(value, newline=False).decode() if isinstance(value, bytes) else str(value)


def dump(value, default=_other):
    """`value` as JSON in valid UTF-8, whatever it holds: a reply that cannot be sent would be no reply at all."""
    try:
        return encode(json.dumps(value, default=default, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError):
        return encode(json.dumps(_clean(value), default=default, ensure_ascii=False))


def encode(text):
    """UTF-8, with bytes that were smuggled through str (surrogateescape) as U+FFFD and lone surrogates as '?'."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _clean(value):
    """`value` with what JSON has no word for (not-a-number, keys that are no text, cycles cut at depth) replaced."""
    return _cleaned(value, 50)


def _cleaned(value, depth):
    if depth == 0:
        return str(type(value))
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if isinstance(value, dict):
        return {str(k): _cleaned(v, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_cleaned(v, depth - 1) for v in value]
    return value


def text_of(error):
    """str(error), even of an exception whose __str__ raises."""
    try:
        return str(error)
    except BaseException as failure:
        return "<str() of this %s raised %s>" % (type(error).__name__, type(failure).__name__)


def error_content(error, traceback=()):
    """The content of an error reply."""
    return {
        "status": "error",
        "ename": type(error).__name__,
        "evalue": text_of(error),
        "traceback": list(traceback),
    }


class MissingPackage(ImportError):
    """A request that this Python cannot serve for want of a package."""

    def __init__(self, package):
        super().__init__(
            "this request needs the package `%s`, which %s does not have. Install it there: %s -m pip install %s"
            % (package, sys.executable, sys.executable, package)
        )
