"""Garbage on every socket: it is refused, told of once, forwarded to nobody, and nobody else notices."""

import json
import os
import re
import select
import socket
import struct
import threading
import time

import pytest
import zmq
from jupyter_client.session import Session
from programs import BINARY, GENEROUS, wait_until

DELIMITER = b"<IDS|MSG>"


def message(key, msg_type="apply_request", content=None, **changes):
    """The frames of a rightly signed message from the delimiter on, in which some frames are then changed."""
    session = Session(key=key.encode(), signature_scheme="hmac-sha256")
    frames = session.serialize(session.msg(msg_type, content=content or {}))
    assert frames[0] == DELIMITER
    names = ("signature", "header", "parent", "metadata", "content")
    for name, value in changes.items():
        frames[1 + names.index(name)] = value
    return frames


def signed(key, *frames):
    """Any four frames, rightly signed."""
    session = Session(key=key.encode(), signature_scheme="hmac-sha256")
    return [DELIMITER, session.sign(list(frames)), *frames]


def garbage(key):
    """Messages of which not one may have an effect, by what is wrong with them."""
    header = message(key)[2]
    return {
        "one empty frame": [b""],
        "many empty frames": [b""] * 100,
        "no delimiter": [b"x", b"y", b"z"],
        "a delimiter alone": [DELIMITER],
        "too few frames": message(key)[:4],
        "a delimiter in a frame": [b"x" + DELIMITER, *message(key)[1:]],
        "random bytes": [os.urandom(20) for _ in range(20)],
        "a huge frame": [os.urandom(1 << 20) * 8],
        "a huge message without delimiter": [b"x" * 1_000_000 for _ in range(10)],
        "ten thousand frames": [b"x"] * 10_000,
        "no signature": message(key, signature=b""),
        "a signature of another key": message("another key"),
        "a signature of another length": message(key, signature=b"ab"),
        "a signature that is no text": message(key, signature=b"\xff" * 64),
        "a changed header": message(key, header=header.replace(b"apply", b"Apply")),
        "a changed content": message(key, content=b'{"a": 1}'),
        "broken JSON": message(key, header=b"{"),
        "signed broken JSON": signed(key, b"{", b"{", b"{", b"{"),
        "signed, no JSON": signed(key, b"\xff\xfe", b"", b"", b""),
        "signed, not objects": signed(key, b"[]", b"1", b'"x"', b"null"),
        "signed, an empty header": signed(key, b"{}", b"{}", b"{}", b"{}"),
        "signed, odd types": signed(key, b'{"msg_id": 1, "msg_type": [], "date": {}}', b"{}", b"[]", b"[]"),
        "signed, deep": signed(key, b"[" * 100_000, b"{}", b"{}", b"{}"),
        "signed, control characters": signed(
            key, json.dumps({"msg_id": "a\x1b[2J\n", "msg_type": "\x1b]0;x\x07", "session": "", "username": "",
                             "date": "yesterday", "version": "5"}).encode(), b"{}", b"{}", b"{}"),
    }  # fmt: skip


def client_channels(place):
    """(name, url) of each channel that clients connect to."""
    connection = place.connection()
    names = ["registration", "mux", "task", "control", "broadcast", "notification", "iopub"]
    return {name: f"{connection['interface']}:{connection[name]}" for name in names}


def engine_channels(place):
    connection = json.loads(place.engine_file().read_text())
    channels = {}
    for name in ("mux", "task", "control", "iopub", "hb_ping", "hb_pong"):
        channels[f"engines' {name}"] = f"{connection['interface']}:{connection[name]}"
    for index, port in enumerate(connection["broadcast"]):
        channels[f"engines' broadcast {index}"] = f"{connection['interface']}:{port}"
    return channels


def all_channels(place):
    return {**client_channels(place), **engine_channels(place)}


def socket_types(channel):
    """Whatever can talk to the controller's socket there."""
    if channel == "engines' iopub":
        return [zmq.PUB, zmq.XPUB]
    if channel in ("iopub", "notification", "engines' hb_ping"):
        return [zmq.XSUB]
    return [zmq.DEALER, zmq.REQ]


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def cluster(place):
    place.controller_program = place.controller("--dictdb", "--ping=500")
    place.engine_program = place.engines(2)
    return place


def connected(context, kind, url):
    """A connected socket: its first message is not lost."""
    attacker = context.socket(kind)
    attacker.linger = 0
    attacker.sndtimeo = GENEROUS * 1000
    attacker.rcvtimeo = GENEROUS * 1000
    monitor = attacker.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    if kind == zmq.REQ:
        # It need not wait for an answer.
        attacker.setsockopt(zmq.REQ_RELAXED, 1)
    attacker.connect(url)
    assert monitor.poll(GENEROUS * 1000), f"no connection to {url}"
    attacker.disable_monitor()
    return attacker


def assert_well(cluster, client):
    """Everything works, engines are there, and no engine has seen anything that was no request."""
    assert cluster.controller_program.is_running()
    assert cluster.engine_program.is_running()
    assert client.ids == [0, 1]
    assert client[:].apply_sync(lambda: 1) == [1, 1]
    assert client.load_balanced_view().map_sync(abs, range(-20, 0)) == list(range(20, 0, -1))
    assert client.broadcast_view().apply_sync(lambda: 2) == [2, 2]
    assert client.queue_status()["unassigned"] == 0
    new = cluster.client(2)
    result = new[:].apply_async(print, "seen")
    assert result.wait_for_output(GENEROUS) and result.stdout == ["seen\n"] * 2
    new.close()


def test_garbage_on_every_channel(cluster, context):
    key = cluster.connection()["key"]
    client = cluster.client(2)
    assert_well(cluster, client)
    history = len(client.hub_history())
    for channel, url in all_channels(cluster).items():
        for kind in socket_types(channel):
            attacker = connected(context, kind, url)
            for what, frames in garbage(key).items():
                attacker.send_multipart(frames)
            attacker.close(linger=2000)
    assert_well(cluster, client)
    assert cluster.client().ids == [0, 1]
    submitted = [record["header"] for record in client.db_query({}, keys=["header"])]
    assert len(client.hub_history()) > history
    assert {header["msg_type"] for header in submitted} == {"apply_request"}
    assert {header["username"] for header in submitted} != {""}
    for program in (cluster.controller_program, cluster.engine_program):
        assert "panic" not in program.output
        assert "\x1b" not in program.output and "\x07" not in program.output
        assert key not in program.output
    assert "dropped" not in cluster.engine_program.output, "something was forwarded to an engine"


def test_refusals_are_told_once_per_peer_and_while(cluster, context):
    attacker = connected(context, zmq.DEALER, client_channels(cluster)["mux"])
    for _ in range(2000):
        attacker.send_multipart([b"x", b"y"])
    controller = cluster.controller_program
    controller.wait_for("mux: dropped a message")
    client = cluster.client(2)
    assert_well(cluster, client)
    assert len(re.findall("mux: dropped a message", controller.output)) <= 3
    # Another peer has a line of its own.
    other = connected(context, zmq.DEALER, client_channels(cluster)["mux"])
    other.send_multipart([b"x", b"y"])
    wait_until(lambda: len(set(re.findall(r"dropped a message from (\S+)", controller.output))) == 2, "the other's line")


def test_a_crowd_of_peers_does_not_fill_the_log(cluster, context):
    """Peers may come with a new name each time."""
    url = client_channels(cluster)["task"]
    for _ in range(300):
        attacker = connected(context, zmq.DEALER, url)
        attacker.send_multipart([b"x"])
        attacker.close(linger=2000)
    client = cluster.client(2)
    assert_well(cluster, client)
    assert len(cluster.controller_program.lines) < 100


def test_topics_of_output_are_no_names_of_peers(cluster, context):
    """On iopub the first frame is whatever the sender likes."""
    attacker = connected(context, zmq.PUB, engine_channels(cluster)["engines' iopub"])
    cluster_client = cluster.client(2)
    # A publisher drops what it sends before the subscription is there.
    controller = cluster.controller_program
    wait_until(lambda: attacker.send_multipart([os.urandom(8), b"x"]) or "iopub: dropped" in controller.output, "a line")
    for _ in range(2000):
        attacker.send_multipart([os.urandom(8), b"x"])
    assert_well(cluster, cluster_client)
    assert len(re.findall("iopub: dropped", controller.output)) <= 40


def test_raw_bytes_on_every_port(cluster):
    client = cluster.client(2)
    greeting = b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32
    inputs = [
        b"",
        b"\0",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        os.urandom(100_000),
        b"\xff" * 1000,
        greeting[:12],
        greeting,
        greeting + os.urandom(1000),
        # A frame that claims to be larger than any memory.
        greeting + b"\x02" + struct.pack(">Q", 1 << 62) + b"x" * 100,
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ]
    idle = []
    for channel, url in all_channels(cluster).items():
        port = int(url.rpartition(":")[2])
        for sent in inputs:
            peer = socket.create_connection(("127.0.0.1", port), timeout=GENEROUS)
            try:
                peer.sendall(sent)
            except OSError:
                # The controller may have hung up in the middle.
                pass
            if len(idle) < 40:
                idle.append(peer)
            else:
                peer.close()
    assert_well(cluster, client)
    for peer in idle:
        peer.close()
    assert_well(cluster, client)
    assert "panic" not in cluster.controller_program.output


def test_a_replayed_request_runs_once(cluster, context):
    key = cluster.connection()["key"]
    client = cluster.client(2)
    client[0].execute("runs = 0", block=True)
    attacker = connected(context, zmq.DEALER, client_channels(cluster)["mux"])
    frames = message(key, "execute_request", {"code": "runs += 1", "silent": False, "user_expressions": {}})
    for _ in range(3):
        attacker.send_multipart([client._engines[0].encode(), *frames])
    attacker.recv_multipart()
    assert attacker.poll(500) == 0
    assert client[0]["runs"] == 1
    # On another channel it is the same message.
    other = connected(context, zmq.DEALER, client_channels(cluster)["control"])
    other.send_multipart([client._engines[0].encode(), *frames])
    assert other.poll(500) == 0
    assert client[0]["runs"] == 1


@pytest.mark.parametrize("channel", ["task", "mux"])
@pytest.mark.parametrize("msg_type", ["execute_request", "nonsense_request"])
def test_a_message_id_that_is_in_use_harms_nobody(cluster, context, channel, msg_type):
    key = cluster.connection()["key"]
    client = cluster.client(2)

    def wait_for(path):
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)
        return "the result"

    go = cluster.folder / "go"
    view = client.load_balanced_view() if channel == "task" else client[0]
    result = view.apply_async(wait_for, str(go))
    (msg_id,) = result.msg_ids
    wait_until(lambda: client.db_query({"msg_id": msg_id}, keys=["header"]), "the record")
    session = Session(key=key.encode(), signature_scheme="hmac-sha256")
    request = session.msg(msg_type, content={"code": "1", "silent": False, "user_expressions": {}})
    request["header"]["msg_id"] = request["msg_id"] = msg_id
    attacker = connected(context, zmq.DEALER, client_channels(cluster)[channel])
    prefix = [] if channel == "task" else [client._engines[1].encode()]
    attacker.send_multipart(prefix + session.serialize(request))
    reply = attacker.recv_multipart()
    content = json.loads(reply[reply.index(DELIMITER) + 5])
    assert (content["status"], content["ename"]) == ("error", "ValueError")
    assert msg_id in content["evalue"]
    (record,) = client.db_query({"msg_id": msg_id})
    assert record["completed"] is None and record["header"]["msg_type"] == "apply_request"
    go.touch()
    assert result.get(GENEROUS) == "the result"
    again = cluster.client(2).get_result(msg_id, owner=False)
    assert again.get(GENEROUS) == "the result"


def test_what_peers_say_to_the_hub_does_not_fill_the_log(cluster, context):
    """Nor does any of it reach a terminal."""
    key = cluster.connection()["key"]
    url = client_channels(cluster)["registration"]
    bad = "\x1b[2J\n" + 100_000 * "x"
    requests = [
        ("registration_request", {"uuid": bad}),
        (f"{bad}_request", {}),
        ("connection_request", {}),
    ]
    for msg_type, content in requests:
        attacker = connected(context, zmq.DEALER, url)
        for _ in range(100):
            attacker.send_multipart(message(key, msg_type, content))
            attacker.recv_multipart()
    engine = cluster.client(2)._engines[1]
    attacker.send_multipart(message(key, "unregistration_request", {"id": 1, "uuid": engine, "reason": bad}))
    controller = cluster.controller_program
    controller.wait_for(r"engine 1 \(.*\) left")
    assert "a registration of" in controller.output
    assert re.search(r"client \S+: \\u\{1b\}\[2J", controller.output)
    assert "\x1b" not in controller.output
    assert len(controller.lines) < 50
    assert max(map(len, controller.lines)) < 1000


@pytest.mark.parametrize("channel", ["mux", "control", "task", "registration"])
def test_every_wellsigned_request_has_an_answer(cluster, context, channel):
    key = cluster.connection()["key"]
    attacker = connected(context, zmq.DEALER, client_channels(cluster)[channel])
    prefix = [b"no-such-engine"] if channel in ("mux", "control") else []
    attacker.send_multipart(prefix + message(key, "nonsense_request", {"a": 1}))
    reply = attacker.recv_multipart()
    content = json.loads(reply[reply.index(DELIMITER) + 5])
    assert content["status"] == "error" and content["ename"]


def test_a_false_engine_s_replies_do_not_count(cluster, context):
    """One that connects under a name of its own, and answers a request that it does not have."""
    key = cluster.connection()["key"]
    client = cluster.client(2)
    result = client[0].execute("import time; print('begun', flush=True); time.sleep(2)")
    wait_until(lambda: "begun" in result.stdout, "the begin")
    (msg_id,) = result.msg_ids
    false = context.socket(zmq.DEALER)
    false.identity = b"false-engine"
    false.connect(engine_channels(cluster)["engines' mux"])
    session = Session(key=key.encode(), signature_scheme="hmac-sha256")
    reply = session.msg("execute_reply", {"status": "ok"}, parent=session.msg_header("execute_request"))
    reply["parent_header"]["msg_id"] = msg_id
    for client_id in (b"x", client._mux_socket.getsockopt(zmq.IDENTITY) or b"\0abcd"):
        false.send_multipart([client_id, *session.serialize(reply)])
    time.sleep(0.5)
    assert not result.ready()
    result.get(timeout=GENEROUS)
    false.close(linger=0)


def test_a_reader_that_never_reads_is_no_burden(cluster, context):
    """It subscribes to all output and takes none of it."""
    import psutil

    connection = cluster.connection()
    peer = context.socket(zmq.SUB)
    peer.rcvhwm = 1
    peer.setsockopt(zmq.RCVBUF, 4096)
    peer.subscribe(b"")
    peer.connect(f"{connection['interface']}:{connection['iopub']}")
    client = cluster.client(2)
    process = psutil.Process(cluster.controller_program.pid)
    client[:].execute("print('x' * 100)", block=True)
    before = process.memory_info().rss
    for _ in range(20):
        client[:].execute("for _ in range(200): print('x' * 10_000, flush=True)", block=True)
    assert process.memory_info().rss - before < 200 << 20
    assert_well(cluster, client)
    peer.close(linger=0)


def test_a_flood_does_not_starve_another_client(cluster, context):
    url = client_channels(cluster)["mux"]
    attacker = connected(context, zmq.DEALER, url)
    done = threading.Event()

    def flood():
        while not done.is_set():
            try:
                attacker.send_multipart([b"x" * 100, b"y" * 100], zmq.DONTWAIT)
            except zmq.Again:
                time.sleep(0.001)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        client = cluster.client(2)
        for _ in range(10):
            assert client[:].apply_async(lambda: 1).get(GENEROUS) == [1, 1]
    finally:
        done.set()
        flooder.join()


def test_an_engine_s_sockets_refuse_garbage_too(place, context):
    """An engine that is given to a false controller takes nothing that is not signed."""
    sockets = {}
    connection = {"ssh": "", "interface": "tcp://127.0.0.1", "key": "the key", "curve_serverkey": None,
                  "location": "127.0.0.1", "pack": "json", "unpack": "json", "signature_scheme": "hmac-sha256"}  # fmt: skip
    kinds = {"registration": zmq.ROUTER, "control": zmq.ROUTER, "mux": zmq.ROUTER, "task": zmq.ROUTER,
             "iopub": zmq.SUB, "hb_ping": zmq.PUB, "hb_pong": zmq.ROUTER, "broadcast": zmq.ROUTER}  # fmt: skip
    for name, kind in kinds.items():
        sockets[name] = context.socket(kind)
        sockets[name].rcvtimeo = GENEROUS * 1000
        if kind == zmq.ROUTER:
            sockets[name].router_mandatory = 1
            sockets[name].identity = f"{name}_out".encode()
        port = sockets[name].bind_to_random_port("tcp://127.0.0.1")
        connection[name] = [port] if name == "broadcast" else port
    sockets["iopub"].subscribe(b"")
    engine = place.start([BINARY, "engine"], {"IPP_CONNECTION_INFO": json.dumps(connection)})
    identity, *request = sockets["registration"].recv_multipart()
    session = Session(key=b"the key", signature_scheme="hmac-sha256")
    parent = json.loads(request[2])
    for frames in garbage("the key").values():
        sockets["registration"].send_multipart([identity, *frames])
    reply = session.msg("registration_reply", {"status": "ok", "id": 0, "hb_period": 60_000}, parent={"header": parent})
    sockets["registration"].send_multipart([identity, *session.serialize(reply)])

    def send(channel, frames):
        def sent():
            try:
                sockets[channel].send_multipart([identity, b"client", *frames])
            except zmq.ZMQError:
                return False
            return True

        wait_until(lambda: sent() or engine.ended, f"a connection to {channel}")
        assert engine.is_running(), engine.output

    for channel in ("mux", "task", "control", "broadcast"):
        for frames in garbage("the key").values():
            send(channel, frames)
    send("mux", message("the key", "execute_request", {"code": "print('works')", "silent": False}))
    # Garbage that was signed and has an id may be answered; then comes the answer to the request.
    while True:
        frames = sockets["mux"].recv_multipart()
        header = json.loads(frames[frames.index(DELIMITER) + 2])
        if header["msg_type"] == "execute_reply":
            break
    assert json.loads(frames[frames.index(DELIMITER) + 5])["status"] == "ok"
    assert engine.is_running()
    assert "panic" not in engine.output and "\x1b" not in engine.output


# ---- limits


def limited(place, size, **how):
    """A controller that takes messages of `size`, with two engines."""
    folder = place.profile_dir()
    folder.mkdir(parents=True)
    (folder / "ipcluster.toml").write_text(f'[controller]\nmax_message_size = "{size}"\n')
    place.controller_program = place.controller("--dictdb", "--ping=500", **how)
    place.engine_program = place.engines(2)
    return place


def test_a_message_beyond_the_limit_is_refused_with_a_reason(place):
    limited(place, "8 MiB")
    client = place.client(2)
    too_much = place.client(2)
    assert client[0].apply_sync(len, bytes(7_000_000)) == 7_000_000
    too_much[0].apply_async(len, bytes(20_000_000))
    controller = place.controller_program
    controller.wait_for(r"from 127.0.0.1 to port \d+ was ended: a message is larger than 8388608 bytes")
    # Of many parts, each of which is small.
    too_much[1].apply_async(len, [bytes(1_000_000) for _ in range(20)])
    assert_well(place, client)
    assert len(re.findall("was ended", controller.output)) < 20


def test_messages_that_never_come_whole_have_a_limit_together(place, context):
    import psutil

    limited(place, "64 MiB")
    client = place.client(2)
    process = psutil.Process(place.controller_program.pid)
    before = process.memory_info().rss
    greeting = b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32
    ready = b"\x04\x1c\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    peers = []
    for _ in range(20):
        peer = socket.create_connection(("127.0.0.1", place.connection()["mux"]), timeout=GENEROUS)
        peers.append(peer)
        try:
            # Claims to be 50 MB, and stops before.
            peer.sendall(greeting + ready + b"\x02" + struct.pack(">Q", 50_000_000) + bytes(20_000_000))
        except OSError:
            # The controller has had enough in the middle.
            pass
    place.controller_program.wait_for("was ended: messages that are still coming in take more than 67108864 bytes")
    assert_well(place, client)
    assert process.memory_info().rss - before < 300 << 20
    for peer in peers:
        peer.close()
    # Then there is room again.
    assert wait_until(lambda: client[0].apply_sync(len, bytes(50_000_000)) == 50_000_000, "room")


def test_a_client_that_never_reads_its_results_is_left(place, context):
    import psutil

    limited(place, "16 MiB")
    client = place.client(2)
    assert_well(place, client)
    process = psutil.Process(place.controller_program.pid)
    before = process.memory_info().rss
    idle = context.socket(zmq.DEALER)
    idle.linger = 0
    idle.rcvhwm = 1
    idle.setsockopt(zmq.RCVBUF, 4096)
    idle.connect(client_channels(place)["mux"])
    key = place.connection()["key"]
    engine = client._engines[0].encode()
    for _ in range(100):
        request = {"code": "", "silent": False, "user_expressions": {"x": "'x' * 1_000_000"}}
        idle.send_multipart([engine, *message(key, "execute_request", request)])
    place.controller_program.wait_for(r"was ended: it does not read, and \d+ bytes wait for it")
    assert_well(place, client)
    # The records have the results.
    done = wait_until(
        lambda: len(records := client.db_query({"completed": {"$ne": None}}, keys=["msg_id"])) >= 100 and records,
        "all results",
    )
    assert done
    assert process.memory_info().rss - before < 400 << 20


def test_more_connections_than_descriptors(place):
    import resource

    limit = 160
    limited(place, "1 GiB", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
    client = place.client(2)
    assert_well(place, client)
    port = place.connection()["task"]
    crowd = [socket.create_connection(("127.0.0.1", port), timeout=GENEROUS) for _ in range(200)]
    said = rf"was ended: \d+ connections are open, as many as the limit on open files \({limit}, see ulimit -n\) allows"
    place.controller_program.wait_for(said)
    # Who comes now is told why, in ZeroMQ's own way; but for some, in the places of a client that has just gone.
    told = {socket.create_connection(("127.0.0.1", port), timeout=GENEROUS): b"" for _ in range(30)}

    def some_are_told():
        for late in select.select(list(told), [], [], 0)[0]:
            told[late] += late.recv(1000)
        return any(b"\x05ERROR" in said and b"as many as the limit on open files" in said for said in told.values())

    wait_until(some_are_told, "a reason")
    crowd += told
    assert get_all(client) == [1, 1]
    assert len(re.findall("was ended", place.controller_program.output)) < 30
    for peer in crowd:
        peer.close()
    assert_well(place, client)


def test_a_client_that_submits_without_end_waits(place, context):
    import psutil

    folder = place.profile_dir()
    folder.mkdir(parents=True)
    (folder / "ipcluster.toml").write_text('[controller]\nmax_memory = "150 MiB"\n')
    controller = place.controller()
    process = psutil.Process(controller.pid)
    busy = connected(context, zmq.DEALER, client_channels(place)["task"])
    key = place.connection()["key"]
    for _ in range(500):
        busy.send_multipart([*message(key), bytes(1_000_000)])
    controller.wait_for("task: .* new requests wait with the clients until some have ended; max_memory")
    # Others have their answers: the hub, and those who ask for something else.
    client = place.client()
    assert client.queue_status()["unassigned"] < 300
    assert process.memory_info().rss < 400 << 20
    place.engines(2)
    wait_until(lambda: len(client.ids) == 2, "the engines")
    assert get_all(client) == [1, 1]
    for _ in range(500):
        reply = busy.recv_multipart()
        assert json.loads(reply[reply.index(DELIMITER) + 2])["msg_type"] == "apply_reply"


def get_all(client):
    return client[:].apply_async(lambda: 1).get(GENEROUS)


@pytest.mark.parametrize("curve", [False, True])
def test_a_flood_of_handshakes_does_not_keep_others_from_their_work(place, curve):
    place.controller_program = place.controller("--dictdb", "--ping=500", f"--enable-curve={curve}")
    place.engine_program = place.engines(2)
    client = place.client(2)
    assert_well(place, client)
    mechanism = b"CURVE" if curve else b"NULL"
    greeting = b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03\x00" + mechanism.ljust(20, b"\0") + b"\0" * 32
    hello = b"\x04\xc8\x05HELLO\x01\x00" + os.urandom(72) + os.urandom(32) + struct.pack(">Q", 1) + os.urandom(80)
    ports = [place.connection()[name] for name in ("mux", "task", "registration")]
    done = threading.Event()

    def flood(port):
        while not done.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=GENEROUS) as peer:
                    peer.sendall(greeting + hello)
            except OSError:
                # It was faster with hanging up.
                pass

    flooders = [threading.Thread(target=flood, args=[port]) for port in ports]
    for flooder in flooders:
        flooder.start()
    try:
        for _ in range(10):
            assert get_all(client) == [1, 1]
        assert client.load_balanced_view().map_async(abs, range(-20, 0)).get(GENEROUS) == list(range(20, 0, -1))
        # Newcomers have their turn as well.
        new = place.client(2)
        assert get_all(new) == [1, 1]
        new.close()
    finally:
        done.set()
        for flooder in flooders:
            flooder.join()
    assert_well(place, client)
    assert len(place.controller_program.lines) < 60
