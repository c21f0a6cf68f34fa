"""What stands in for ipykernel's Session and sockets: what is sent goes to the link."""

from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session

from .link import IOPUB, REPLY
from .messages import dump


class IOPubChannel:
    """Stands in for a kernel's iopub socket: what is sent to it goes to the engine.

    `bound` is a real socket after bind_kernel: frontends that attached to this kernel see everything as well.
    """

    def __init__(self):
        self.bound = None


class ReplyChannel:
    """Stands in for the socket that a request came from: what is sent to it is that request's one reply."""

    def __init__(self, msg_id, before_reply=lambda: None):
        self.msg_id = msg_id.encode()
        self.before_reply = before_reply
        self.replied = False


class LinkSession(Session):
    """A Session whose messages to the stand-ins go over the link, and to real sockets as usual."""

    link = None
    parents = None
    current_header = None
    """The parsed header of the shell request being handled now, unless that is an apply_request."""
    apply_header = None
    """The header of the kernel's ApplyMessage."""

    def send(
        self,
        stream,
        msg_or_type,
        content=None,
        parent=None,
        ident=None,
        buffers=None,
        track=False,
        header=None,
        metadata=None,
        **kwargs,
    ):
        if isinstance(msg_or_type, dict):
            message = msg_or_type
            buffers = buffers or message.get("buffers")
        else:
            message = self.msg(msg_or_type, content=content, parent=parent, header=header, metadata=metadata)
        if isinstance(stream, ReplyChannel):
            self._reply(stream, message, buffers or ())
        elif isinstance(stream, IOPubChannel):
            self._publish(message, buffers or ())
            if stream.bound is not None:
                super().send(stream.bound, message, ident=ident, buffers=buffers)
        else:
            return super().send(stream, message, ident=ident, buffers=buffers, track=track, **kwargs)
        return message

    def _reply(self, channel, message, buffers):
        channel.before_reply()
        if not channel.replied:
            channel.replied = True
            frames = (channel.msg_id, _dump(message["content"]), _dump(message["metadata"]), *buffers)
            # It leaves together with DONE, which follows at once.
            self.link.push(REPLY, frames)

    def _publish(self, message, buffers):
        msg_type = message["msg_type"]
        if msg_type == "status":
            # Busy and idle are the engine's to say.
            return
        frames = (
            msg_type.encode(),
            self._parent_frame(message["parent_header"]),
            _dump(message["metadata"]),
            _dump(message["content"]),
            *buffers,
        )
        self.link.send(IOPUB, frames)

    def _parent_frame(self, header):
        if header is self.current_header:
            return b""
        return self.parents.frame() if header is self.apply_header else dump(header, json_default)


def _dump(value):
    """JSON as ipykernel's sessions make it: dates as ISO 8601, bytes as base64."""
    return dump(value, json_default)
