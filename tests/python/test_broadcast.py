"""A broadcast goes once to each process, however many engines that runs."""

import json
import sys

import numpy as np
import pytest
import zmq
from ipyparallel import error, interactive
from ipyparallel.serialize import serialize_object
from jupyter_client.session import Session
from programs import GENEROUS, wait_until

DELIMITER = b"<IDS|MSG>"


class Engines:
    """What an engine process looks like to a controller: some engines, and the address at which it takes broadcasts."""

    def __init__(self, context, connection, uuids, host):
        self.context, self.connection, self.uuids = context, connection, uuids
        self.session = Session(key=connection["key"].encode(), signature_scheme="hmac-sha256")
        self.hearts = []
        self.post = self.connected(zmq.ROUTER, connection["broadcast"][0], host)
        self.broadcast = {uuid: self.connected(zmq.ROUTER, connection["broadcast"][0], uuid) for uuid in uuids}
        for uuid in uuids:
            self.register(uuid, host)

    def connected(self, kind, port, identity=None):
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.rcvtimeo = GENEROUS * 1000
        if identity:
            socket.identity = identity.encode()
        if kind == zmq.SUB:
            socket.subscribe(b"")
        socket.connect(f"{self.connection['interface']}:{port}")
        return socket

    def register(self, uuid, host):
        registrar = self.connected(zmq.DEALER, self.connection["registration"], uuid)
        request = self.session.msg("registration_request", {"uuid": uuid, "host": host})
        registrar.send_multipart(self.session.serialize(request))
        reply = registrar.recv_multipart()
        assert json.loads(reply[-1])["status"] == "ok"
        ping = self.connected(zmq.SUB, self.connection["hb_ping"])
        pong = self.connected(zmq.DEALER, self.connection["hb_pong"], uuid)
        self.hearts.append((ping, pong))

    def beat(self):
        """Answers the heartbeats that have come. The first one makes an engine registered."""
        for ping, pong in self.hearts:
            while ping.poll(0):
                pong.send_multipart(ping.recv_multipart())

    def answer(self, route, request_header, uuid, msg_id, value):
        header = {**request_header, "msg_id": msg_id}
        metadata = {"status": "ok", "engine": uuid, "original_msg_id": request_header["msg_id"],
                    "is_broadcast": True, "is_coalescing": True, "dependencies_met": True}  # fmt: skip
        reply = self.session.msg("apply_reply", {"status": "ok"}, parent={"header": header}, metadata=metadata)
        frames = [*route, *self.session.serialize(reply), *serialize_object(value)]
        self.broadcast[uuid].send_multipart(frames)


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_one_message_for_all_engines_of_a_process(place, context):
    place.controller("--ping=200", "--HeartMonitor.max_heartmonitor_misses=10000")
    connection = json.loads(place.engine_file().read_text())
    engines = Engines(context, connection, ["uuid-a", "uuid-b", "uuid-c"], "the-process")
    client = place.client()
    wait_until(lambda: engines.beat() or len(client.ids) == 3, "three engines")
    view = client.broadcast_view(is_coalescing=True)
    payload = np.arange(1 << 17)
    for round_ in range(2):
        # The second round's message is the next one: there was no other.
        result = view.apply_async(len, payload)
        frames = engines.post.recv_multipart()
        where = frames.index(DELIMITER)
        header, metadata = json.loads(frames[where + 2]), json.loads(frames[where + 4])
        assert any(len(frame) >= payload.nbytes for frame in frames[where + 6 :])
        targets = dict(metadata["targets"])
        assert targets == {uuid: f"{header['msg_id']}_{uuid}" for uuid in engines.uuids}
        for uuid, msg_id in targets.items():
            engines.answer(frames[:where], header, uuid, msg_id, f"{uuid} {round_}")
        assert result.get(GENEROUS) == [f"{uuid} {round_}" for uuid in engines.uuids]
    for socket in engines.broadcast.values():
        assert not socket.poll(0), "nothing has come to an engine itself"


def test_broadcasts_come_in_order_and_to_each_of_several_processes(place):
    """Small and large ones, to engines that share a process and to one that has its own."""
    place.controller()
    place.engines(3)
    place.engines(1)
    client = place.client(4)
    for coalescing in (True, False):
        view = client.broadcast_view(is_coalescing=coalescing)
        results = []
        for n in range(20):
            pushed = view.push({"array": np.full(1 << 18 if n % 3 else 10, n)}, block=False)
            results.append((pushed, view.apply_async(interactive(lambda: int(array[-1])))))  # noqa: F821
        for n, (pushed, result) in enumerate(results):
            assert list(pushed.get(GENEROUS)) == [None] * 4
            assert list(result.get(GENEROUS)) == [n] * 4


def test_engines_of_a_process_do_not_see_each_others_changes(place):
    place.controller()
    place.engines(3)
    view = place.client(3).broadcast_view(is_coalescing=True)
    view.push({"array": np.zeros(3_000_000)}, block=True)

    @interactive
    def change():
        import os

        array[:] += os.getpid()  # noqa: F821
        return array[0] == array[-1] == os.getpid()  # noqa: F821

    assert view.apply_sync(change) == [True] * 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs memfd_create")
def test_a_large_payload_is_in_memory_once(place):
    place.controller()
    place.engines(3)
    view = place.client(3).broadcast_view(is_coalescing=True)
    view.push({"array": np.ones(3_000_000)}, block=True)

    def mappings():
        # The inode of what the array lies in.
        with open("/proc/self/maps") as maps:
            return {line.split()[4] for line in maps if "memfd:ipcluster" in line}

    first, *others = view.apply_sync(mappings)
    assert len(first) == 1 and others == [first, first]
    assert view.apply_sync(interactive(lambda: float(array.sum()))) == [3_000_000.0] * 3  # noqa: F821


def test_one_of_them_that_has_left_harms_no_other(place):
    place.controller()
    place.engines(3)
    client = place.client(3)
    client[1].shutdown(block=True)
    wait_until(lambda: client.ids == [0, 2], "the engine's end")
    assert client.broadcast_view(is_coalescing=True).apply_sync(lambda: 7) == [7, 7]


def test_one_of_them_that_dies_of_it_harms_no_other(place):
    place.controller()
    place.engines(3)
    client = place.client(3)
    view = client.broadcast_view(is_coalescing=False)

    def die_on(engine):
        import os

        from ipyparallel.engine.app import IPEngine

        if IPEngine.instance().id == engine:
            os._exit(3)
        return "alive"

    result = view.apply_async(die_on, 1)
    with pytest.raises(error.CompositeError, match="exit status 3"):
        result.get(GENEROUS)
    assert [value for value in result.get(return_exceptions=True) if value == "alive"] == ["alive"] * 2
    wait_until(lambda: client.ids == [0, 2], "the engine's end")
    assert view.client.broadcast_view().apply_sync(lambda: 7) == [7, 7]
