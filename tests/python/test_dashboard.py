"""The status page's addresses: who may ask, what is answered, and that nobody's questions harm the cluster."""

import fcntl
import http.client
import json
import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from urllib.parse import parse_qs, quote, urlsplit

import psutil
import pytest
from cluster_fixtures import BINARY, PATIENCE, clusters, wait_until  # noqa: F401

NO_CLUSTER = 12


class Dashboard:
    """Asks the dashboard of the cluster that runs."""

    def __init__(self, clusters):
        address = clusters.ok("dashboard").strip().splitlines()[-1]
        parts = urlsplit(address)
        self.host, self.port = parts.hostname, parts.port
        self.address = address
        (self.token,) = parse_qs(parts.query)["token"]

    def connect(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def ask(self, path, method="GET", body=None, token=True, **headers):
        """Status, headers and body of an answer."""
        connection = self.connect()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            headers["Authorization"] = f"Bearer {self.token}"
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, text

    def state(self):
        status, _, text = self.ask("/api/state")
        assert status == 200, text
        return json.loads(text)

    def totals(self, what):
        return sum(queue[what] for queue in self.state()["totals"].values())

    def command(self, engine, action):
        body = json.dumps({"id": engine, "action": action})
        return self.ask("/api/engine", "POST", body, Content_Type="application/json")

    @contextmanager
    def events(self):
        """The events of a page that is open."""
        connection = self.connect()
        connection.request("GET", "/events", headers={"Authorization": f"Bearer {self.token}"})
        answer = connection.getresponse()
        assert answer.status == 200

        def read():
            while line := answer.readline():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

        try:
            yield read()
        finally:
            connection.close()


@pytest.fixture
def dashboard(clusters):  # noqa: F811
    cluster = clusters.start(2, "--dashboard", "--", "--dictdb")
    yield Dashboard(clusters)
    cluster.signal(signal.SIGINT)
    assert cluster.wait() == 0, cluster.text()
    assert not (clusters.profile_dir / "security" / "dashboard.json").exists()


def work(x):
    return x * x


def fail(x):
    raise ValueError(f"no {x}")


# ---- who may ask


def test_without_a_dashboard_there_is_none(clusters):  # noqa: F811
    cluster = clusters.start(1)
    done = clusters.run("dashboard")
    assert done.returncode == NO_CLUSTER and "--dashboard" in done.stdout
    assert clusters.run("tasks").returncode == NO_CLUSTER
    # What the hub knows is shown all the same.
    assert "engines 1" in clusters.ok("top")
    cluster.signal(signal.SIGINT)
    assert cluster.wait() == 0
    assert clusters.run("top").returncode == NO_CLUSTER


def test_the_address_is_said_and_kept_in_private(clusters, dashboard):  # noqa: F811
    file = clusters.profile_dir / "security" / "dashboard.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert dashboard.host == "127.0.0.1" and len(dashboard.token) >= 32
    said = (clusters.folder / "output-0").read_text()
    assert f"the status page is at {dashboard.address}" in said
    assert dashboard.address in clusters.log("ipcontroller", clusters.pid("controller"))


def test_the_token_is_wanted_everywhere_but_for_health(dashboard):
    for path in ("/", "/page.js", "/events", "/api/state", "/api/tasks", "/api/task?id=x", "/metrics", "/nothing"):
        assert dashboard.ask(path, token=False)[0] == 401, path
        assert dashboard.ask(f"{path.split('?')[0]}?token={dashboard.token[:-1]}x", token=False)[0] == 401, path
    for wrong in ("Bearer", "Bearer ", f"Basic {dashboard.token}", f"Bearer {dashboard.token}x"):
        assert dashboard.ask("/metrics", token=False, Authorization=wrong)[0] == 401
    assert dashboard.ask("/api/engine", "POST", "{}", token=False)[0] == 401
    assert dashboard.ask("/healthz", token=False)[::2] == (200, "ok\n")
    status, headers, page = dashboard.ask(f"/?token={dashboard.token}", token=False)
    assert status == 200 and "<title>ipcluster</title>" in page
    # The page stays without the token in its address.
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert dashboard.ask("/api/state", token=False, Cookie=cookie.split(";")[0])[0] == 200
    assert dashboard.ask("/nothing")[0] == 404
    assert dashboard.ask("/page.js", "POST")[0] == 405
    assert dashboard.ask("/api/engine")[0] == 405


def test_other_names_and_other_pages_are_refused(dashboard):
    for host in ("evil.example", f"evil.example:{dashboard.port}", f"localhost.evil.example:{dashboard.port}"):
        assert dashboard.ask("/api/state", Host=host)[0] == 403
        assert dashboard.ask("/healthz", Host=host)[0] == 403
    assert dashboard.ask("/api/state", Host=f"localhost:{dashboard.port}")[0] == 200
    for origin in ("http://evil.example", "null", f"http://localhost:{dashboard.port}"):
        assert dashboard.ask("/api/state", Origin=origin)[0] == 403
    own = f"http://127.0.0.1:{dashboard.port}"
    assert dashboard.ask("/api/state", Origin=own)[0] == 200
    # A form of another page cannot be sent as JSON.
    status, _, _ = dashboard.ask("/api/engine", "POST", '{"id": 0, "action": "interrupt"}', Content_Type="text/plain")
    assert status == 415


def test_nothing_comes_from_elsewhere(dashboard):
    status, headers, page = dashboard.ask("/")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    parts = [page] + [dashboard.ask(f"/{name}")[2] for name in re.findall(r'(?:src|href)="([\w.]+)"', page)]
    parts += [dashboard.ask(f"/{name}.js")[2] for name in ("tables", "charts", "stream", "words")]
    assert len(parts) >= 7
    for part in parts:
        assert not re.findall(r"""(?:src|href)=["']https?:|@import|url\(["']?https?:|import\(""", part)


# ---- bad input


def test_what_is_too_long_or_makes_no_sense_is_refused(dashboard):
    assert dashboard.ask(f"/api/tasks?query={'x' * 5000}")[0] == 414
    # A head that is longer than any should be ends the connection, or is answered with an error.
    try:
        assert dashboard.ask(f"/api/tasks?query={'x' * 100_000}")[0] in (400, 414, 431)
    except (http.client.HTTPException, OSError):
        pass
    for query in ("{", "[1]", '{"nosuchkey": 1}', '{"msg_id": {"$bad": 1}}', '{"msg_id": {"$regex": "("}}'):
        status, _, text = dashboard.ask(f"/api/tasks?query={quote(query)}")
        assert status == 400 and json.loads(text)["error"], query
    assert dashboard.ask("/api/task")[0] == 400
    assert dashboard.ask("/api/task?id=nobody")[0] == 404
    for body, status in (("", 400), ("[]", 400), ('{"id": 0}', 400), ('{"id": 0, "action": "format"}', 400),
                         ('{"id": 99, "action": "interrupt"}', 404), ('{"id": -1, "action": "interrupt"}', 400),
                         (" " * 10_000, 413)):  # fmt: skip
        assert dashboard.ask("/api/engine", "POST", body, Content_Type="application/json")[0] == status, body
    with socket.create_connection((dashboard.host, dashboard.port)) as peer:
        peer.sendall(b"\x16\x03\x01\x02\x00nonsense\r\n\r\n")
        assert peer.recv(100).startswith(b"HTTP/1.1 400")
    assert dashboard.ask("/healthz")[0] == 200


def test_hundreds_of_connections_harm_nobody(clusters, dashboard):  # noqa: F811
    idle = [socket.create_connection((dashboard.host, dashboard.port)) for _ in range(300)]
    with clusters.client() as client:
        assert client.load_balanced_view().map_sync(work, range(20)) == [x * x for x in range(20)]
        # Those that say nothing are given up after a while, or when they go.
        for peer in idle:
            peer.close()
        pages = []
        for _ in range(100):
            connection = dashboard.connect()
            connection.request("GET", "/events", headers={"Authorization": f"Bearer {dashboard.token}"})
            pages.append((connection, connection.getresponse()))
        served = sum(answer.status == 200 for _, answer in pages)
        assert 0 < served < 100
        assert all(answer.status in (200, 503) for _, answer in pages)
        # None of them reads.
        assert client.load_balanced_view().map_sync(work, range(50)) == [x * x for x in range(50)]
        assert dashboard.ask("/healthz")[0] == 200
        for connection, _ in pages:
            connection.close()
        # The places of those that have gone are free again.
        wait_until(lambda: "ipcluster_pages_open 0" in dashboard.ask("/metrics")[2], "the end of all pages")
        with dashboard.events() as events:
            assert next(events)["kind"] == "state"


# ---- what is said


def test_figures_equal_the_hub_s(clusters, dashboard):  # noqa: F811
    with clusters.client() as client:
        view = client.load_balanced_view()
        view.map_sync(work, range(40))
        failed = view.map_async(fail, range(3), chunksize=1)
        failed.wait(PATIENCE)
        client[:].execute("x = 1", block=True)
        client.broadcast_view().apply_sync(work, 2)
        wait_until(lambda: dashboard.totals("ok") == 40 + 2 + 2, "the last of it")
        state = dashboard.state()
        status = client.queue_status()
        for engine in state["engines"]:
            of_hub = status[engine["id"]]
            assert (engine["completed"], engine["tasks"], engine["queue"]) == (
                of_hub["completed"], of_hub["tasks"], of_hub["queue"],
            )  # fmt: skip
        assert dashboard.totals("failed") == 3 and sum(e["failed"] for e in state["engines"]) == 3
        assert dashboard.totals("submitted") == 47
        names = {entry[5] for entry in state["stream"]}
        assert {"map work", "map fail", "work", "execute: x = 1"} <= names
        errors = [entry[11] for entry in state["stream"] if entry[4] == "failed"]
        assert sorted(errors) == ["ValueError: no 0", "ValueError: no 1", "ValueError: no 2"]
        (progress,) = [client for client in state["clients"] if client["total"]]
        assert (progress["ever"], progress["failed"]) == (47, 3)
        metrics = dict(
            line.rsplit(" ", 1) for line in dashboard.ask("/metrics")[2].splitlines() if not line.startswith("#")
        )
        assert metrics['ipcluster_requests_ended_total{queue="task",status="ok"}'] == "40"
        assert metrics['ipcluster_requests_ended_total{queue="broadcast",status="ok"}'] == "2"
        assert metrics["ipcluster_engines"] == "2"
        assert metrics['ipcluster_request_run_seconds_bucket{le="+Inf"}'] == "44"


def test_engines_say_where_they_are_and_what_they_write(clusters, dashboard):  # noqa: F811
    def described():
        engines = dashboard.state()["engines"]
        return all(engine["pid"] and engine["memory"] and engine["host"] for engine in engines) and engines

    engines = wait_until(described, "the engines' own words")
    assert {engine["pid"] for engine in engines} == {kernel.pid for kernel in clusters.kernels()}
    with clusters.client() as client:
        client[0].execute("import sys; print('hello'); print('oh no', file=sys.stderr)", block=True)

        def lines():
            (first,) = [engine for engine in dashboard.state()["engines"] if engine["id"] == 0]
            return len(first["output"]) == 2 and first["output"]

        assert sorted(wait_until(lines, "the output")) == ["! oh no", "hello"]


def test_a_task_at_work_shows_and_is_interrupted(clusters, dashboard):  # noqa: F811
    with clusters.client() as client:
        code = "print('begun', flush=True); import time; time.sleep(600)"
        sleeping = client[1].execute(code)

        def engine():
            (found,) = [engine for engine in dashboard.state()["engines"] if engine["id"] == 1]
            return found

        # Until the kernel has begun, an interrupt would find nothing to end.
        wait_until(lambda: "begun" in engine()["output"], "the beginning of its work")
        assert engine()["current"]["name"] == f"execute: {code}" and engine()["queue"] == 1
        status, _, text = dashboard.command(1, "interrupt")
        assert status == 200, text
        with pytest.raises(Exception, match="KeyboardInterrupt"):
            sleeping.get(timeout=PATIENCE)
        wait_until(lambda: not engine()["current"], "the end of the engine's task")


def test_an_engine_is_restarted(clusters, dashboard):  # noqa: F811
    def pids():
        engines = dashboard.state()["engines"]
        return {engine["id"]: engine["pid"] for engine in engines if engine["pid"] and engine["phase"] == "up"}

    before = wait_until(lambda: len(pids()) == 2 and pids(), "the engines' own words")
    status, _, text = dashboard.command(1, "restart")
    assert status == 200, text

    def others():
        now = pids()
        return len(now) == 2 and now != before and now

    after = wait_until(others, "the engine's return")
    assert after[0] == before[0] and len(set(after.values()) - set(before.values())) == 1
    with clusters.client() as client:
        assert sorted(client.ids) == sorted(after)
        assert client[:].apply_sync(work, 3) == [9, 9]


def test_a_dead_engine_shows_and_so_does_why(clusters, dashboard):  # noqa: F811
    kernel = clusters.kernels()[0]
    with dashboard.events() as events:
        state = next(events)
        assert len(state["engines"]) == 2
        began = time.monotonic()
        kernel.send_signal(signal.SIGKILL)
        dead = []
        for event in events:
            dead = [engine for engine in event.get("engines", []) if engine["phase"] == "dead"]
            if dead:
                break
        took = time.monotonic() - began
        departed = event["departed"][0]
        assert departed["id"] == dead[0]["id"] and "SIGKILL" in departed["how"] and dead[0]["how"] == departed["how"]
        print(f"a dead engine showed after {took:.3f} s")
    assert sorted(engine["phase"] for engine in dashboard.state()["engines"]) == ["dead", "up"]
    # It is shown, and there is nothing to be interrupted.
    status, _, text = dashboard.command(dead[0]["id"], "interrupt")
    assert status == 404, text
    assert not any("from the dashboard" in line[4] for line in dashboard.state()["log"])
    assert "ipcluster_engines 1\n" in dashboard.ask("/metrics")[2]


def test_engines_that_are_started_again_are_expected(clusters, dashboard):  # noqa: F811
    wait_until(lambda: dashboard.state()["expected"] == [], "what was announced to have come")
    with dashboard.events() as events:
        next(events)
        psutil.Process(clusters.pid("engines")).kill()
        expected = next(event["expected"] for event in events if event.get("expected"))
    assert [(one["engines"], one["state"] in ("restarting", "starting")) for one in expected] == [(2, True)]
    wait_until(lambda: [e["phase"] for e in dashboard.state()["engines"]].count("up") == 2, "the engines' return")
    wait_until(lambda: dashboard.state()["expected"] == [], "that nothing is missing")


def test_records_are_found_by_the_database_s_own_queries(clusters, dashboard):  # noqa: F811
    with clusters.client() as client:
        view = client.load_balanced_view()
        with view.temp_flags(label="night/1"):
            good = view.apply(work, 3)
        with view.temp_flags(label="night/2"):
            bad = view.apply(fail, 4)
        good.wait(PATIENCE)
        bad.wait(PATIENCE)

        def find(query):
            status, _, text = dashboard.ask(f"/api/tasks?query={quote(json.dumps(query))}")
            assert status == 200, text
            found = json.loads(text)
            assert found["count"] == len(found["records"])
            return [(record["label"], record["status"]) for record in found["records"]]

        assert find({"label": {"$glob": "night/*"}}) == [("night/2", "error"), ("night/1", "ok")]
        assert find({"result_metadata.status": {"$ne": "ok"}, "completed": {"$ne": None}}) == [("night/2", "error")]
        status, _, text = dashboard.ask(f"/api/task?id={bad.msg_ids[0]}")
        found = json.loads(text)
        assert status == 200 and found["record"]["result_content"]["ename"] == "ValueError"
        assert "no 4" in "".join(found["record"]["result_content"]["traceback"])
        ended = wait_until(
            lambda: json.loads(dashboard.ask(f"/api/task?id={bad.msg_ids[0]}")[2])["ended"], "the task's end"
        )
        assert ended[11] == "ValueError: no 4"


# ---- in the terminal


def test_top_tasks_and_report(clusters, dashboard, tmp_path):  # noqa: F811
    following = subprocess.Popen(
        [BINARY, "tasks", "--follow", "-o", "json"], env=clusters.env, stdout=subprocess.PIPE, text=True
    )
    with clusters.client() as client:
        client.load_balanced_view().map_sync(work, range(30))
        client[0].apply_async(fail, 1).wait(PATIENCE)
    followed = [json.loads(following.stdout.readline()) for _ in range(31)]
    following.kill()
    following.communicate()
    assert [one["name"] for one in followed].count("map work") == 30
    assert {one["status"] for one in followed} == {"ok", "failed"}
    assert "engines 2" in clusters.ok("top") and "31 of 31" in clusters.ok("top")
    table = clusters.ok("tasks", "--last=40")
    assert table.count("map work") == 30 and "ValueError: no 1" in table
    for name, flags in (("page", []), ("database", ["--from-database"])):
        file = tmp_path / f"{name}.html"
        clusters.ok("report", str(file), *flags)
        html = file.read_text()
        data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S).group(1))
        assert len(data["stream"]) == 31 and data["totals"]["task"]["ok"] == 30
        names = [entry[5] for entry in data["stream"]]
        assert (names.count("map work"), names.count("fail")) == (30, 1)
        assert [entry[11] for entry in data["stream"] if entry[4] == "failed"] == ["ValueError: no 1"]
        assert "http://" not in re.sub(r"http://www.w3.org\S*", "", html)


class Terminal:
    """`ipcluster top` in a terminal of its own, and what is on the screen."""

    def __init__(self, clusters, columns=110, lines=30, environment=None):  # noqa: F811
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        inherited = {name: value for name, value in clusters.env.items() if name != "NO_COLOR"}
        environment = {**inherited, "TERM": "xterm", **(environment or {})}

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        files = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        self.process = subprocess.Popen([BINARY, "top"], env=environment, preexec_fn=own_terminal, **files)
        self.written = b""

    def resize(self, columns, lines):
        termios.tcsetwinsize(self.slave, (lines, columns))

    def wait_for(self, text, after=0):
        """Until this was written; where it ends."""
        while text not in self.written[after:]:
            ready, _, _ = select.select([self.master], [], [], PATIENCE)
            assert ready, f"{text!r} was not written: {self.written[-2000:]!r}"
            self.written += os.read(self.master, 65536)
        return self.written.index(text, after) + len(text)

    def next_picture(self, after):
        """Its lines, without what a terminal obeys, and where it ends."""
        begin = self.wait_for(b"\x1b[H", after)
        end = self.wait_for(b"\x1b[J", begin)
        picture = self.written[begin:end].decode(errors="replace").removesuffix("\x1b[J")
        return [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in picture.split("\r\n")], end

    def end(self, how=0):
        """It has ended, and the terminal is as it was."""
        self.wait_for(b"\x1b[?1049l", self.written.rindex(b"\x1b[?1049h"))
        assert self.process.wait(PATIENCE) == how
        assert b"\x1b[?25h" in self.written[self.written.rindex(b"\x1b[?1049h"):]
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.master)
        os.close(self.slave)


def is_made_for(picture, columns, lines):
    if len(picture) > lines or max(map(len, picture)) > columns:
        return False
    has = [any(title in line for line in picture) for title in ("STATE", "PID")]
    return has == [lines > 10, columns > 110]


def test_top_in_a_terminal(clusters, dashboard):  # noqa: F811
    top = Terminal(clusters)
    top.wait_for(b"WORKS ON")
    assert top.written.startswith(b"\x1b[?1049h") and b"\x1b[32m" in top.written
    with clusters.client() as client:
        client.load_balanced_view().map_sync(work, range(10))
    top.wait_for(b"10 of 10")
    # As wide and as high as it is, at any time.
    at = len(top.written)
    for columns, lines in ((40, 24), (25, 5), (200, 50)):
        top.resize(columns, lines)
        top.process.send_signal(signal.SIGWINCH)
        # One of before may have been on its way.
        picture = None
        while not picture or not is_made_for(picture, columns, lines):
            picture, at = top.next_picture(at)
    # The shell has its terminal back for as long as it is stopped.
    at = len(top.written)
    top.process.send_signal(signal.SIGTSTP)
    top.wait_for(b"\x1b[?1049l", at)
    wait_until(lambda: psutil.Process(top.process.pid).status() == psutil.STATUS_STOPPED, "the stop")
    assert termios.tcgetattr(top.slave) == top.before
    at = len(top.written)
    top.process.send_signal(signal.SIGCONT)
    top.wait_for(b"WORKS ON", top.wait_for(b"\x1b[?1049h", at))
    os.write(top.master, b"q")
    top.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_top_leaves_the_terminal_as_it_was(clusters, dashboard, number):  # noqa: F811
    top = Terminal(clusters, environment={"NO_COLOR": "1"})
    top.wait_for(b"WORKS ON")
    # Bold and faint are no colours.
    assert not re.search(rb"\x1b\[3\dm", top.written) and b"\x1b[1m" in top.written
    top.process.send_signal(number)
    top.end()


@pytest.mark.parametrize("flags", [[], ["--dashboard"]])
def test_top_ends_with_the_cluster(clusters, flags):  # noqa: F811
    cluster = clusters.start(1, *flags)
    top = Terminal(clusters)
    top.wait_for(b"WORKS ON")
    cluster.signal(signal.SIGINT)
    assert cluster.wait() == 0
    top.wait_for(b"the cluster has ended")
    top.end()


def test_top_ends_with_a_controller_that_says_no_farewell(clusters):  # noqa: F811
    cluster = clusters.start(1)
    top = Terminal(clusters)
    top.wait_for(b"WORKS ON")
    psutil.Process(clusters.pid("controller")).kill()
    top.wait_for(b"the cluster has ended")
    top.end()
    assert cluster.wait() != 0


def test_top_writes_once_where_there_is_no_terminal(clusters, dashboard):  # noqa: F811
    shown = clusters.ok("top")
    assert "engines 2" in shown and "WORKS ON" in shown and "\x1b" not in shown
    top = Terminal(clusters, environment={"TERM": "dumb"})
    assert top.process.wait(PATIENCE) == 0
    top.wait_for(b"WORKS ON")
    assert b"\x1b" not in top.written
    os.close(top.master)
    os.close(top.slave)
    # Nobody reads it to the end.
    done = clusters.run("-c", f"{BINARY} top | head -1", program=("sh",))
    assert done.returncode == 0 and done.stdout.startswith("ipcluster ")


def test_a_page_that_is_left_open_hears_of_the_end(clusters):  # noqa: F811
    cluster = clusters.start(1, "--dashboard")
    dashboard = Dashboard(clusters)
    with dashboard.events() as events:
        assert next(events)["kind"] == "state"
        cluster.signal(signal.SIGINT)
        for _ in events:
            pass
    assert cluster.wait() == 0


def test_a_place_and_a_token_can_be_chosen(clusters):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = clusters.run("controller", f"--dashboard=127.0.0.1:{port}")
        assert done.returncode == 1 and "cannot listen" in done.stdout
    done = clusters.run("controller", "--dashboard=nonsense:x")
    assert done.returncode == 2
    settings = clusters.profile_dir / "ipcluster.toml"
    settings.write_text('[controller]\ndashboard = "127.0.0.1:0"\ndashboard_token = "short"\n')
    assert clusters.run("controller").returncode == 2
    settings.write_text('[controller]\ndashboard = "127.0.0.1:0"\ndashboard_token = "abcdefghijklmnop-1"\n')
    controller = clusters.spawn("controller")
    controller.wait_for_line("the status page is at")
    assert Dashboard(clusters).token == "abcdefghijklmnop-1"
    # A controller that is killed leaves its address, which is nobody's then.
    os.kill(controller.pid, signal.SIGKILL)
    controller.wait()
    assert clusters.run("dashboard").returncode == NO_CLUSTER
    (clusters.profile_dir / "security" / "dashboard.json").unlink()


# ---- logs


def test_logs_as_json_by_component_and_rotated(clusters):  # noqa: F811
    controller = clusters.spawn("controller", "--log-format=json", "--log-level=warning,hub=debug")
    wait_until(lambda: (clusters.profile_dir / "security" / "ipcontroller-client.json").exists(), "the controller")
    engine = clusters.spawn("engine", "--log-level=warning", "--log-format=json")
    controller.wait_for_line("registered")
    with clusters.client() as client:
        assert client[0].apply_sync(work, 2) == 4
    for process in (engine, controller):
        process.signal(signal.SIGTERM)
        process.wait()
    lines = [json.loads(line) for line in controller.text().splitlines()]
    assert {line["component"] for line in lines if line["level"] in ("info", "debug")} == {"hub"}
    assert all(line["time"] and line["message"] and line["program"] == "ipcontroller" for line in lines)
    assert clusters.run("controller", "--log-level=hubb=debug").returncode == 2

    settings = clusters.profile_dir / "ipcluster.toml"
    settings.write_text('[log]\nlevel = "debug"\nmax_size = 500\nkeep = 2\n')
    cluster = clusters.start(3)
    with clusters.client() as client:
        client[:].apply_sync(work, 2)
    cluster.signal(signal.SIGINT)
    cluster.wait()
    logs = sorted(path.name for path in (clusters.profile_dir / "log").glob("ipcontroller-*"))
    assert any(name.endswith(".log.1") for name in logs), logs
    assert not any(name.endswith(".log.3") for name in logs), logs
    for path in (clusters.profile_dir / "log").glob("ipcontroller-*"):
        assert path.stat().st_size <= 500 and stat.S_IMODE(path.stat().st_mode) == 0o600


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
