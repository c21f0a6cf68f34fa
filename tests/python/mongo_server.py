"""A server that speaks MongoDB's protocol."""

import contextlib
import socket
import sys
from pathlib import Path

from programs import wait_until


class MongoServer:
    """SecantusDB, in a folder of its own."""

    def __init__(self, place, folder):
        self.place, self.folder = place, folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
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
