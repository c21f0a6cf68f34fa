"""Encryption: with CURVE, programs of ipyparallel and of this project on either side need nothing but their files."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time

import ipyparallel
import numpy as np
import pytest
import zmq
from cluster_fixtures import clusters, restart_engines  # noqa: F401
from ipyparallel import error
from programs import BINARY, GENEROUS, running_engines, wait_until
from test_hostile import all_channels, message, socket_types
from test_jupyter_kernels import shown

USAGE, NO_CLUSTER = 2, 12
N = 2


def get(result):
    return result.get(timeout=GENEROUS)


def stock_controller(place, *arguments, **environment):
    controller = place.start([sys.executable, "-m", "ipyparallel.controller", "--ping=250", *arguments], environment)
    wait_until(lambda: place.client_file().exists() and place.engine_file().exists(), "the stock controller's files")
    return controller


def stock_engine(place):
    return place.start([sys.executable, "-m", "ipyparallel.engine"])


def greeting(port):
    """The mechanism that whoever listens at a port announces."""
    with socket.create_connection(("127.0.0.1", port), timeout=GENEROUS) as peer:
        # libzmq says the second half when it has heard the first.
        peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00")
        said = b""
        while len(said) < 64 and (more := peer.recv(64 - len(said))):
            said += more
    return said[12:32].rstrip(b"\0")


def ports(place):
    return {channel: int(url.rpartition(":")[2]) for channel, url in all_channels(place).items()}


def change_file(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- who talks to whom


@pytest.fixture(scope="module", params=["ours", "stock engines", "both kinds of engines", "stock controller"])
def cluster(request, tmp_path_factory):
    import programs

    with programs.a_place(tmp_path_factory.mktemp("ipython")) as place:
        if request.param == "stock controller":
            stock_controller(place, "--dictdb", IPP_ENABLE_CURVE="1")
        else:
            place.controller("--dictdb", "--ping=250", "--enable-curve")
        stock = {"stock engines": 2, "both kinds of engines": 1}.get(request.param, 0)
        for _ in range(stock):
            stock_engine(place)
        if stock < N:
            place.engines(N - stock, "--InteractiveShell.colors=nocolor")
        yield place


@pytest.fixture
def client(cluster):
    client = cluster.client(N)
    yield client
    client.close()


def test_the_client_has_the_key_from_its_file(cluster, client):
    assert client.curve_serverkey == cluster.connection()["curve_serverkey"].encode()
    assert client.session.key == b""


def test_every_port_is_encrypted(cluster):
    for channel, port in ports(cluster).items():
        assert greeting(port) == b"CURVE", channel


def test_requests_on_all_queues(client):
    for view in (client[:], client.broadcast_view()):
        assert view.apply_sync(lambda x: x + 1, 1) == [2] * N
        view.push({"a": 5}, block=True)
        assert view.pull("a", block=True) == [5] * N
    assert client.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
    with pytest.raises(error.RemoteError, match="ZeroDivisionError"):
        client[0].apply_sync(lambda: 1 / 0)


def test_large_data(client):
    array = np.arange(300_000)
    for view in (client[0], client[-1]):
        assert np.array_equal(view.apply_sync(lambda a: a * 2, array), array * 2)


def test_output_and_control(client, tmp_path):
    deadline = time.monotonic() + GENEROUS
    while True:
        result = client[:].execute("print('seen')", silent=False)
        get(result)
        # With ipyparallel's controller an output is lost that comes before the client's subscription has.
        if result.wait_for_output(1) or time.monotonic() > deadline:
            break
    assert result.stdout == ["seen\n"] * N
    end = tmp_path / "end"
    running = client[0].execute(f"import os, time\nwhile not os.path.exists({str(end)!r}): time.sleep(0.01)")
    queued = client[0].apply_async(lambda: 1)
    client[0].abort(queued, block=True)
    end.touch()
    with pytest.raises(error.TaskAborted):
        get(queued)
    get(running)


def test_records(client):
    result = client[:].apply_async(lambda: 1)
    assert get(result) == [1] * N
    record = wait_until(lambda: [r for r in client.db_query({"msg_id": result.msg_ids[0]}) if r["completed"]], "a record")
    assert record[0]["queue"] == "mux"
    assert client.queue_status()["unassigned"] == 0


# ---- who is not talked to


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def encrypted(place):
    place.controller_program = place.controller("--enable-curve", "--ping=250", "--dictdb")
    place.engine_program = place.engines(N)
    return place


def assert_well(place):
    assert place.controller_program.is_running() and place.engine_program.is_running()
    client = place.client(N)
    assert client.ids == list(range(N))
    assert get(client[:].apply_async(lambda: 1)) == [1] * N
    return client


def attack(place, context, **keys):
    """Sends what would be requests on every channel, over connections that are not made."""
    sockets = []
    for channel, url in all_channels(place).items():
        attacker = context.socket(socket_types(channel)[0])
        attacker.linger = 0
        attacker.reconnect_ivl = 10
        for name, value in keys.items():
            setattr(attacker, name, value)
        attacker.connect(url)
        sockets.append(attacker)
    frames = message("")
    for attacker in sockets:
        for _ in range(20):
            try:
                attacker.send_multipart(frames, zmq.DONTWAIT)
            except zmq.Again:
                # A publisher without subscribers drops, others wait for a connection.
                break
    return sockets


def test_who_does_not_encrypt_is_refused_and_told_of_now_and_then(encrypted, context):
    attackers = attack(encrypted, context)
    controller = encrypted.controller_program
    controller.wait_for(r"from 127.0.0.1 to port \d+ was ended: it hung up when it heard that connections are encrypted")
    client = assert_well(encrypted)
    assert len(client.hub_history()) == N
    assert 0 < len(re.findall("was ended", controller.output)) <= len(attackers)
    assert "dropped" not in controller.output + encrypted.engine_program.output


def test_who_has_another_key_is_refused(encrypted, context):
    server, _ = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    attackers = attack(encrypted, context, curve_serverkey=server, curve_publickey=public, curve_secretkey=secret)
    controller = encrypted.controller_program
    controller.wait_for(r"from 127.0.0.1 to port \d+ was ended: the handshake")
    client = assert_well(encrypted)
    assert len(client.hub_history()) == N
    # They all try again many times a second, and each port has a line for it in ten.
    assert len(re.findall("was ended", controller.output)) <= 3 * len(attackers)


def assert_gets_nowhere(client_file):
    """A client is told that nobody answers, or waits for ever: libzmq gives up for good what it cannot agree upon, and if that
    is before the first request is sent, `send` does not return."""
    program = f"import ipyparallel; ipyparallel.Client({str(client_file)!r}, timeout=2)"
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=15)
    except subprocess.TimeoutExpired:
        return
    assert done.returncode != 0 and "TimeoutError" in done.stderr, done.stderr


@pytest.mark.parametrize("changes", [{"curve_serverkey": None}, {"curve_serverkey": zmq.curve_keypair()[0].decode()}])
def test_a_client_or_engine_with_a_wrong_file_gets_nowhere(encrypted, changes, tmp_path):
    theirs = tmp_path / "client.json"
    theirs.write_text(encrypted.client_file().read_text())
    change_file(theirs, **changes)
    assert_gets_nowhere(theirs)
    file = json.loads(encrypted.engine_file().read_text())
    engine = encrypted.start(
        [BINARY, "engine", "--timeout=2"], {"IPP_CONNECTION_INFO": json.dumps({**file, **changes})}
    )
    assert engine.wait() == 1
    assert "did not answer the registration" in engine.output
    # It says what it knows.
    assert "to 127.0.0.1 was ended: it " in engine.output, engine.output
    change_file(encrypted.client_file(), **changes)
    code, output = encrypted.run("status")
    assert code == 1 and "has not answered" in output and "the connection file is not its own" in output, output


@pytest.mark.parametrize("ours", [True, False])
def test_who_encrypts_for_a_controller_that_does_not_gets_nowhere(place, ours, tmp_path):
    controller = place.controller() if ours else stock_controller(place)
    theirs = tmp_path / "client.json"
    theirs.write_text(place.client_file().read_text())
    change_file(theirs, curve_serverkey=zmq.curve_keypair()[0].decode())
    assert_gets_nowhere(theirs)
    file = json.loads(place.engine_file().read_text())
    environment = {
        "IPP_CONNECTION_INFO": json.dumps(file),
        "IPP_CURVE_SERVERKEY": zmq.curve_keypair()[0].decode(),
    }
    engine = place.start([BINARY, "engine", "--timeout=2"], environment)
    assert engine.wait() == 1, engine.output
    if ours:
        controller.wait_for("was ended: .*(not encrypted here|wants the security mechanism CURVE, and this end NULL)")
    place.engines(1)
    assert get(place.client(1)[:].apply_async(lambda: 1)) == [1]


# ---- when it is on


@pytest.mark.parametrize(
    ("arguments", "environment", "is_on"),
    [
        ([], {}, False),
        (["--enable-curve"], {}, True),
        (["--IPController.enable_curve=True"], {}, True),
        ([], {"IPP_ENABLE_CURVE": "1"}, True),
        (["--ip=*"], {}, True),
        (["--ip=*", "--enable-curve=False"], {}, False),
        (["--ip=*", "--IPController.enable_curve=False"], {}, False),
        (["--ip=*"], {"IPP_ENABLE_CURVE": "0"}, False),
        (["--IPController.client_ip=0.0.0.0"], {}, True),
        (["--IPController.engine_ip=0.0.0.0"], {}, True),
        (["--ip=localhost"], {}, False),
    ],
)
def test_it_is_on_when_others_can_reach_the_controller(place, arguments, environment, is_on):
    controller = place.controller(*arguments, environment=environment)
    files = [json.loads(file.read_text()) for file in (place.client_file(), place.engine_file())]
    for file in files:
        assert (file["curve_serverkey"] is not None) == is_on
        # As in ipyparallel: what is encrypted need not be signed.
        assert (file["key"] == "") == is_on
    lines = [line for line in controller.lines if "encrypted" in line]
    by_itself = is_on and any("0.0.0.0" in word or "*" in word for word in arguments)
    assert len(lines) == (1 if is_on or "--ip=*" in arguments else 0), lines
    assert ("--enable-curve=False switches it off" in controller.output) == by_itself
    assert {greeting(port) for port in ports(place).values()} == {b"CURVE" if is_on else b"NULL"}


def test_a_variable_that_makes_no_sense_is_refused(place):
    code, output = place.run("controller", environment={"IPP_ENABLE_CURVE": "maybe"})
    assert code == USAGE and "IPP_ENABLE_CURVE" in output


def test_a_whole_cluster(clusters):  # noqa: F811
    """Every command that talks to the controller does so over encrypted connections."""
    cluster = clusters.start(N, "--ip=*", "--dashboard", "--", "--sqlitedb")
    assert "connections are encrypted" in clusters.ok("logs", "--controller")
    with clusters.client() as client:
        assert client.curve_serverkey
        assert get(client.load_balanced_view().map_async(abs, range(-20, 0))) == list(range(20, 0, -1))
        before = client[:].apply_sync(os.getpid)
        assert "engines 2" in re.sub(r" +", " ", clusters.ok("top"))
        (status,) = [json.loads(clusters.ok("status", "-o", "json"))]
        assert status["state"] == "running" and [engine["id"] for engine in status["engines"]] == [0, 1]
        assert len(clusters.ok("db", "query", "{}", "--keys=msg_id", "-o", "csv").splitlines()) >= 20
        assert "token=" in clusters.ok("dashboard")
        assert clusters.ok("tasks")
        restart_engines(clusters, client, 0)
        assert client[:].apply_sync(os.getpid)[1] == before[1]
        assert client[0].apply_sync(os.getpid) != before[0]
        clusters.ok("engines", "-n", "1", "--daemonize")
        wait_until(lambda: len(client.ids) == N + 1, "the third engine")
        clusters.ok("stop", "--engines", "2")
        wait_until(lambda: len(client.ids) == N, "its end")
        old = set(client._engines.values())
        clusters.ok("restart", "engines")
        wait_until(lambda: len(client.ids) == N and not old & set(client._engines.values()), "new engines")
        assert not set(before) & set(client[:].apply_sync(os.getpid))
    assert json.loads(clusters.ok("list", "-o", "json"))[0]["n_engines"] == N
    clusters.ok("stop")
    cluster.wait()
    clusters.assert_nothing_left()


def test_a_cluster_that_is_told_so(clusters):  # noqa: F811
    clusters.ok("start", "-n", "1", "--daemonize", "--enable-curve")
    with clusters.client() as client:
        assert client.curve_serverkey and client[:].apply_sync(lambda: 1) == [1]
    clusters.ok("stop")
    clusters.ok("start", "-n", "1", "--daemonize", "--ip=*", "--enable-curve=False")
    with clusters.client() as client:
        assert not client.curve_serverkey and client[:].apply_sync(lambda: 1) == [1]
    clusters.ok("stop")
    clusters.assert_nothing_left()


# ---- keys


def private(path):
    return stat.S_IMODE(path.stat().st_mode) == 0o600


def kept_key(place):
    return place.profile_dir() / "security" / ".ipcontroller-curve.key"


def test_files_are_private_and_go(place):
    controller = place.controller("--enable-curve")
    files = [place.client_file(), place.engine_file(), kept_key(place)]
    assert all(map(private, files))
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    assert controller.stop() == 0
    assert not any(file.exists() for file in files)


def test_reuse_keeps_the_key(place):
    first = place.controller("--reuse", "--enable-curve")
    key = place.connection()["curve_serverkey"]
    engines = place.engines(1)
    client = place.client(1)
    assert first.stop() == 0
    assert private(kept_key(place))
    # It need not be said again, and who was connected comes back.
    second = place.controller("--reuse")
    assert place.connection()["curve_serverkey"] == key
    assert "connections are encrypted" in second.output
    client.close()
    assert get(place.client(1)[:].apply_async(lambda: 1)) == [1]
    assert engines.is_running()
    second.stop()
    code, output = place.run("controller", "--reuse", "--enable-curve=False")
    assert code == USAGE and "remove the files" in output
    kept_key(place).unlink()
    code, output = place.run("controller", "--reuse")
    assert code == 1 and "IPP_CURVE_SECRETKEY" in output and key not in output


def test_files_without_a_key_stay_as_they_are(place):
    place.controller("--reuse", "--ip=*", "--enable-curve=False").stop()
    second = place.controller("--reuse", "--ip=*")
    assert place.connection()["curve_serverkey"] is None
    assert "not encrypted" in second.output
    second.stop()
    code, output = place.run("controller", "--reuse", "--enable-curve")
    assert code == USAGE and "remove the files" in output


def test_restore_after_a_crash(place):
    first = place.controller("--enable-curve", "--sqlitedb", "--ping=250")
    place.engines(1)
    client = place.client(1)
    result = client[0].apply_async(lambda: 7)
    assert get(result) == 7
    assert client.result_status(result.msg_ids)["completed"] == result.msg_ids
    key = place.connection()["curve_serverkey"]
    first.kill()
    place.controller("--restore", "--sqlitedb", "--ping=250")
    assert place.connection()["curve_serverkey"] == key
    again = place.client(1)
    assert get(again.get_result(result.msg_ids, owner=False)) == [7]
    assert get(again[0].apply_async(lambda: 8)) == 8


def test_keys_by_environment(place):
    public, secret = (key.decode() for key in zmq.curve_keypair())
    keys = {"IPP_ENABLE_CURVE": "1", "IPP_CURVE_SECRETKEY": secret, "IPP_CURVE_PUBLICKEY": public}
    controller = place.controller("--debug", environment=keys)
    assert place.connection()["curve_serverkey"] == public
    # An engine that has the key from elsewhere than its file.
    file = json.loads(place.engine_file().read_text())
    engine_public, engine_secret = (key.decode() for key in zmq.curve_keypair())
    engine = place.start(
        [BINARY, "engine", "--debug"],
        {
            "IPP_CONNECTION_INFO": json.dumps({**file, "curve_serverkey": None}),
            "IPP_CURVE_SERVERKEY": public,
            "IPP_CURVE_SECRETKEY": engine_secret,
            "IPP_CURVE_PUBLICKEY": engine_public,
        },
    )
    wait_until(lambda: running_engines(engine) or engine.ended, "an engine")
    assert get(place.client(1)[:].apply_async(lambda: 1)) == [1]
    for program in (engine, controller):
        program.stop()
        for key in (secret, engine_secret, public):
            assert key not in program.output
    for file in place.folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert secret.encode() not in content and public.encode() not in content, file


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"IPP_CURVE_SECRETKEY": "too short"}, "is no key"),
        ({"IPP_CURVE_SECRETKEY": zmq.curve_keypair()[1].decode(),
          "IPP_CURVE_PUBLICKEY": zmq.curve_keypair()[0].decode()}, "does not belong"),
    ],
)  # fmt: skip
def test_keys_that_are_none(place, variables, said):
    code, output = place.run("controller", "--enable-curve", environment=variables)
    assert code == 1 and said in output
    for value in variables.values():
        assert value not in output


def test_keys_of_the_command_line_are_not_shown_a_second_time(clusters):  # noqa: F811
    public, secret = (key.decode() for key in zmq.curve_keypair())
    clusters.ok(
        "start", "-n", "1", "--daemonize", "--enable-curve",
        f"--IPController.curve_secretkey={secret}", f"--IPController.curve_publickey={public}",
    )  # fmt: skip
    with clusters.client() as client:
        assert client.curve_serverkey == public.encode()
        assert client[:].apply_sync(lambda: 1) == [1]
    for process in clusters.processes():
        if process.pid != clusters.pid("supervisor"):
            line = " ".join(process.cmdline())
            assert secret not in line and public not in line
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_a_session_key_is_kept_as_well(place):
    place.controller("--enable-curve", environment={"IPP_SESSION_KEY": "of-my-own"})
    connection = place.connection()
    assert connection["key"] == "of-my-own" and connection["curve_serverkey"]
    place.engines(1)
    stock_engine(place)
    assert get(place.client(2)[:].apply_async(lambda: 1)) == [1, 1]


def test_what_is_in_force_is_shown_without_keys(place):
    public, secret = (key.decode() for key in zmq.curve_keypair())
    place.controller().stop()
    variables = {"IPP_CURVE_SECRETKEY": secret, "IPP_CURVE_PUBLICKEY": public, "IPP_CURVE_SERVERKEY": public}
    code, output = place.run("profile", "show", "--resolved", environment=variables)
    assert code == 0 and "IPP_CURVE_SECRETKEY" in output
    assert secret not in output and public not in output


# ---- kernels


def test_a_kernel_that_frontends_attach_to_is_signed(encrypted):
    """Its sockets are not encrypted, and listen on this machine alone; ipyparallel's then takes any message."""
    from jupyter_client import BlockingKernelClient
    from test_engine_features import connection_file

    client = encrypted.client(N)
    client[:].apply_sync(ipyparallel.bind_kernel)
    file = client[0].apply_sync(connection_file)
    with open(file) as opened:
        connection = json.load(opened)
    assert connection["key"] and connection["ip"] == "127.0.0.1"
    frontend = BlockingKernelClient(connection_file=file)
    frontend.load_connection_file()
    frontend.start_channels()
    try:
        frontend.wait_for_ready(timeout=GENEROUS)
        assert frontend.execute("a = 1", reply=True, timeout=GENEROUS)["content"]["status"] == "ok"
    finally:
        frontend.stop_channels()
    assert client[0]["a"] == 1


def test_engines_with_a_jupyter_kernel(place):
    place.controller("--enable-curve")
    place.engines(1, "--kernel=python3")
    assert shown(place.client(1)[0], "6 * 7") == "42"


def test_engines_that_die_are_known_at_once(encrypted):
    client = encrypted.client(N)
    result = client[0].execute("import time; print('begun', flush=True)\ntime.sleep(600)")
    wait_until(lambda: "begun" in result.stdout, "the begin")
    encrypted.engine_program.process.send_signal(signal.SIGKILL)
    with pytest.raises(error.RemoteError, match="EngineError"):
        get(result)
    wait_until(lambda: client.ids == [], "the engines' end")
