"""A server that speaks MongoDB's protocol."""

import contextlib
import socket
import sys
from pathlib import Path

from ports import free_port
from programs import wait_until


class MongoServer:
    """SecantusDB, in a folder of its own."""

    def __init__(self, place, folder):
        self.place, self.folder = place, folder
        self.port = free_port()
        self.arguments = ["--mongodb", f"--MongoDB.connection_args=['127.0.0.1', {self.port}]"]
        self.start()

    def start(self):
        command = Path(sys.executable).with_name("secantusd-py")
        self.program = self.place.start(
            [command, "--host", "127.0.0.1", "--port", self.port, "--storage-path", self.folder]
        )

        def listens():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True

        wait_until(listens, "the server")
