"""Links that can be cut: a TCP proxy for each port of a connection file, all of one link's in the same state."""

import asyncio
import json
import threading

# Bytes that are passed on at a time.
PIECE = 1 << 16


class Link:
    """The way to the ports of a connection file. `up`, `down`, `frozen` and `slow` are its states."""

    def __init__(self, loop):
        self.loop = loop
        self.connections = set()
        self.is_down = False
        # Set when bytes may pass.
        self.open = asyncio.Event()
        self.open.set()
        self.pause = 0.0
        self.servers = []

    # ---- called by the harness, from its own thread

    def up(self):
        self._do(self._up)

    def down(self):
        """Every connection is reset, and new ones as well."""
        self._do(self._down)

    def frozen(self):
        """Connections stay, and nothing goes through them: what a dead router looks like."""
        self._do(self.open.clear)

    def slow(self, bytes_per_second):
        self._do(lambda: setattr(self, "pause", PIECE / bytes_per_second))

    def through(self, file, target):
        """Writes the connection file `target`: `file` with ports of this link in the place of the controller's."""
        return asyncio.run_coroutine_threadsafe(self._through(file, target), self.loop).result()

    def _do(self, change):
        self.loop.call_soon_threadsafe(change)

    # ---- in the loop

    def _up(self):
        self.is_down = False
        self.pause = 0.0
        self.open.set()

    def _down(self):
        self.is_down = True
        self.open.set()
        for writer in list(self.connections):
            writer.transport.abort()

    async def _through(self, file, target):
        connection = json.loads(file.read_text())
        for name, value in connection.items():
            if isinstance(value, list):
                connection[name] = [await self._listen(port) for port in value]
            elif isinstance(value, int) and not isinstance(value, bool):
                connection[name] = await self._listen(value)
        target.write_text(json.dumps(connection))
        target.chmod(0o600)

    async def _listen(self, port):
        async def accept(reader, writer):
            await self._serve(port, reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=PIECE)
        self.servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _serve(self, port, reader, writer):
        if self.is_down:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port, limit=PIECE)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, there_writer}
        self.connections |= both
        try:
            await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
        except OSError:
            pass
        finally:
            self.connections -= both
            for one in both:
                one.transport.abort()

    async def _pass(self, reader, writer):
        while piece := await reader.read(PIECE):
            await self.open.wait()
            if self.pause:
                await asyncio.sleep(self.pause * len(piece) / PIECE)
            writer.write(piece)
            await writer.drain()
        # One side has ended: so does the whole connection, as sockets of ZeroMQ have no half-closed ones.
        raise ConnectionResetError


def a_loop():
    """An event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
