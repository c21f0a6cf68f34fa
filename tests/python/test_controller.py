"""The controller's command line, files, ports and exit codes."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
from ports import free_port, free_ports
from programs import BINARY, wait_until

FAILED, USAGE, ALREADY_STARTED = 1, 2, 10

CLIENT_KEYS = {"control", "mux", "task", "task_scheme", "iopub", "notification", "broadcast", "registration"}
ENGINE_KEYS = {"control", "mux", "task", "iopub", "hb_ping", "hb_pong", "broadcast", "registration"}
COMMON_KEYS = {
    "ssh", "interface", "key", "curve_serverkey", "location", "pack", "unpack", "signature_scheme",
}  # fmt: skip


def ports_in(connection):
    """Every port that a connection file names."""
    ports = []
    for key, value in connection.items():
        if key == "broadcast" and isinstance(value, list):
            ports += value
        elif isinstance(value, int):
            ports.append(value)
    return ports


# ---- connection files


def test_connection_files_are_private_and_have_every_key(place):
    place.controller()
    for file, keys in ((place.client_file(), CLIENT_KEYS), (place.engine_file(), ENGINE_KEYS)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        content = json.loads(file.read_text())
        assert set(content) == keys | COMMON_KEYS
        assert content["interface"] == "tcp://127.0.0.1"
        assert content["location"] == socket.gethostname()
        assert content["signature_scheme"] == "hmac-sha256"
        assert len(content["key"]) >= 32
        assert content["curve_serverkey"] is None
    assert json.loads(place.client_file().read_text())["key"] == json.loads(place.engine_file().read_text())["key"]
    assert stat.S_IMODE((place.profile_dir() / "security").stat().st_mode) == 0o700


def test_files_are_whole_and_private_whenever_they_are_seen(place):
    """Reads them as fast as it can while a controller writes them, again and again."""
    (place.profile_dir() / "security").mkdir(parents=True)
    done = threading.Event()
    seen, wrong = set(), []

    def look():
        while not done.is_set():
            for file in (place.client_file(), place.engine_file()):
                try:
                    with open(file) as opened:
                        mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
                        seen.add(json.load(opened)["registration"])
                        if mode != 0o600:
                            wrong.append(oct(mode))
                except FileNotFoundError:
                    continue
                except ValueError as error:
                    wrong.append(error)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(10):
            controller = place.controller()
            registration = place.connection()["registration"]
            wait_until(lambda: registration in seen, "the watcher's look")
            controller.kill()
    finally:
        done.set()
        watcher.join()
    assert not wrong
    assert len(seen) == 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_clean_exit_removes_the_files(place, number):
    controller = place.controller()
    assert controller.stop(number) == 0
    assert not place.client_file().exists()
    assert not place.engine_file().exists()


def test_files_of_a_killed_controller_do_not_disturb_the_next(place):
    place.controller().kill()
    old = place.connection()
    place.controller()
    assert place.connection()["key"] != old["key"]


def test_the_cluster_id_becomes_a_part_of_the_names(place):
    place.controller("--cluster-id=other")
    assert place.client_file(cluster_id="other").exists()
    assert place.engine_file(cluster_id="other").exists()
    assert not place.client_file().exists()


def test_the_environment_names_profile_and_cluster(place, tmp_path):
    """As ipyparallel's launchers start a controller."""
    folder = tmp_path / "somewhere"
    program = place.start([BINARY, "controller"], {"IPP_PROFILE_DIR": str(folder), "IPP_CLUSTER_ID": "by-env"})
    program.wait_for("listens on")
    assert (folder / "security" / "ipcontroller-by-env-client.json").exists()


def test_the_ipython_folder_is_that_of_the_argument(place, tmp_path):
    controller = place.ipcluster("controller", f"--ipython-dir={tmp_path / 'other'}", "--profile=lab")
    controller.wait_for("listens on")
    assert (tmp_path / "other/profile_lab/security/ipcontroller-client.json").exists()
    assert not place.profile_dir("lab").exists()


def test_called_as_ipcontroller_and_ipengine(place, tmp_path):
    for name in ("ipcontroller", "ipengine"):
        (tmp_path / name).symlink_to(BINARY)
    place.start([tmp_path / "ipcontroller"]).wait_for("listens on")
    place.start([tmp_path / "ipengine"])
    assert place.client(1)[:].apply_sync(lambda: 1) == [1]


def test_location_and_ip_reach_the_files(place):
    place.controller("--ip=127.0.0.1", "--location=elsewhere.example.org")
    assert place.connection()["location"] == "elsewhere.example.org"


def test_all_interfaces(place):
    place.controller("--ip=*")
    assert place.connection()["interface"] in ("tcp://*", "tcp://0.0.0.0")
    place.engines(1)
    assert place.client(1)[:].apply_sync(lambda: 1) == [1]


# ---- reuse


def test_reuse_takes_key_and_ports_over(place):
    first = place.controller("--reuse")
    before = {file: file.read_text() for file in (place.client_file(), place.engine_file())}
    assert first.stop() == 0
    assert {file: file.read_text() for file in before} == before
    place.controller("--reuse")
    assert {file: json.loads(file.read_text()) for file in before} == {
        file: json.loads(text) for file, text in before.items()
    }
    place.engines(1)
    assert place.client(1)[:].apply_sync(lambda: 1) == [1]


def test_reuse_names_the_taken_port_and_its_owner(place):
    place.controller("--reuse").stop()
    port = place.connection()["mux"]
    with socket.create_server(("127.0.0.1", port), reuse_port=False):
        code, output = place.run("controller", "--reuse")
    assert code == FAILED
    assert f"127.0.0.1:{port}" in output and "in use" in output
    if sys.platform == "linux":
        assert f"(pid {os.getpid()})" in output


def test_reuse_of_files_that_are_broken(place):
    place.controller("--reuse").stop()
    place.client_file().write_text('{"key": ')
    code, output = place.run("controller", "--reuse")
    assert code == FAILED
    assert str(place.client_file()) in output


def test_a_second_controller_is_refused_and_told_of_the_first(place):
    first = place.controller()
    code, output = place.run("controller")
    assert code == ALREADY_STARTED
    assert str(first.pid) in output and "--cluster-id" in output
    assert place.client_file().exists()
    place.controller("--cluster-id=second")
    place.controller(profile="other")
    first.stop()
    place.controller()


# ---- ports


def test_ports_come_from_the_pool_in_order(place):
    first = free_ports(14).start
    place.controller(f"--ports={first}-{first + 13}")
    client, engine = place.connection(), json.loads(place.engine_file().read_text())
    assert set(ports_in(client)) | set(ports_in(engine)) == set(range(first, first + 14))


def test_pools_of_engines_and_clients(place):
    first = free_ports(14).start
    place.controller(f"--engine-ports={first}-{first + 7}", f"--client-ports={first + 8}-{first + 13}")
    assert set(ports_in(json.loads(place.engine_file().read_text()))) == set(range(first, first + 8))
    assert set(ports_in(place.connection())) <= set(range(first + 8, first + 14)) | {first}


def test_ports_of_the_pool_that_are_taken_are_passed_over(place):
    first = free_ports(16).start
    with socket.create_server(("127.0.0.1", first + 3)):
        controller = place.controller(f"--ports={first}-{first + 15}")
    controller.wait_for(f"port {first + 3} is in use")
    used = set(ports_in(place.connection())) | set(ports_in(json.loads(place.engine_file().read_text())))
    assert used == set(range(first, first + 15)) - {first + 3}


def test_port_is_that_of_the_registration(place):
    port = free_port()
    place.controller(f"--port={port}")
    assert place.connection()["registration"] == port
    assert json.loads(place.engine_file().read_text())["registration"] == port


def test_a_registration_port_that_is_taken_is_not_passed_over(place):
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        code, output = place.run("controller", f"--port={port}")
    assert code == FAILED
    assert f"{port}" in output and "in use" in output and str(os.getpid()) in output
    assert not place.client_file().exists()


def test_ports_that_do_not_suffice_are_filled_up(place):
    first = free_ports(3).start
    controller = place.controller(f"--ports={first}-{first + 2}")
    assert controller.output.count("used up") == 1
    used = set(ports_in(place.connection())) | set(ports_in(json.loads(place.engine_file().read_text())))
    assert set(range(first, first + 3)) <= used


def test_ports_are_bound_when_the_files_are_there(place):
    """Nothing is announced that does not listen yet."""
    for _ in range(5):
        controller = place.ipcluster("controller")
        wait_until(lambda: place.client_file().exists() and place.engine_file().exists(), "the files")
        ports = ports_in(place.connection()) + ports_in(json.loads(place.engine_file().read_text()))
        for port in set(ports):
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        controller.wait_for("listens on")
        assert controller.stop() == 0


# ---- log


@pytest.mark.parametrize(
    "level, shown",
    [("debug", "debug"), ("10", "debug"), ("INFO", "info"), ("20", "info"), ("warning", "none"), ("30", "none"),
     ("error", "none"), ("40", "none"), ("critical", "none"), ("50", "none")],
)  # fmt: skip
def test_log_levels_by_name_and_number(place, level, shown):
    controller = place.ipcluster("controller", f"--log-level={level}")
    wait_until(lambda: place.client_file().exists(), "the connection file")
    place.client()
    assert controller.stop() == 0
    info = "listens on" in controller.output
    debug = "connection files" in controller.output
    assert (info, debug) == (shown in ("info", "debug"), shown == "debug")


def test_the_log_goes_to_a_file(place):
    controller = place.ipcluster("controller", "--log-to-file")
    wait_until(lambda: place.client_file().exists(), "the connection file")
    (log,) = (place.profile_dir() / "log").glob("ipcontroller-*.log")
    assert str(controller.pid) in log.name
    wait_until(lambda: "listens on" in log.read_text(), "the log")
    assert controller.stop() == 0
    assert str(log) in controller.output and "listens on" not in controller.output


def test_the_key_is_nowhere_but_in_the_files(place):
    controller = place.controller("--debug")
    engines = place.engines(1, "--debug")
    client = place.client(1)
    client[:].apply_sync(lambda: 1)
    key = place.connection()["key"]
    for program in (engines, controller):
        program.stop()
        assert key not in program.output
    for file in place.folder.rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes(), file


def test_the_work_dir(place, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    place.controller()
    place.engines(1, f"--work-dir={folder}")
    assert place.client(1)[0].apply_sync(os.getcwd) == str(folder)
    code, output = place.run("controller", "--cluster-id=x", f"--work-dir={folder}/nope")
    assert code == FAILED and "--work-dir" in output


# ---- settings


def test_traits_as_ipyparallel_spells_them(place):
    controller = place.controller(
        "--HeartMonitor.period=200",
        "--TaskScheduler.hwm=0",
        "--TaskScheduler.scheme_name=lru",
        "--Session.debug=False",
        "--IPController.reuse_files=True",
    )
    assert place.connection()["task_scheme"] == "lru"
    controller.stop()
    assert place.client_file().exists()


def test_settings_of_the_profile(place):
    folder = place.profile_dir()
    folder.mkdir(parents=True)
    (folder / "ipcontroller_config.py").write_text("c = get_config()\nc.TaskScheduler.scheme_name = 'twobin'\n")
    first = place.controller()
    assert place.connection()["task_scheme"] == "twobin"
    first.stop()
    (folder / "ipcluster.toml").write_text("[scheduler]\nscheme = 'weighted'\n")
    (folder / "ipcontroller_config.py").unlink()
    place.controller()
    assert place.connection()["task_scheme"] == "weighted"


def test_the_profile_for_tests_is_built_in(place):
    controller = place.controller(profile="iptest")
    controller.wait_for("DictDB")
    assert (place.profile_dir("iptest") / "ipcluster.toml").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--schem=lru"], "--scheme"),
        (["--scheme=fastest"], "leastload"),
        (["--scheme=leasload"], 'did you mean "leastload"'),
        (["--TaskScheduler.hmw=1"], 'did you mean "TaskScheduler.hwm"'),
        (["--TaskScheduler.hvm=1"], "TaskScheduler.hwm"),
        (["--TaskSchedule.hwm=1"], "TaskScheduler"),
        (["--hwm=many"], "many"),
        (["--ports=99999"], "99999"),
        (["--ping=-1"], "-1"),
        (["--log-level=loud"], "debug"),
        (["--config=nope.toml"], "nope.toml"),
        (["--dictdb", "--sqlitedb"], "--sqlitedb"),
        (["--DictDB.cull_fraction=10"], "between 0 and 1"),
        (["stray"], "stray"),
    ],
)
def test_slips_are_refused_with_what_is_near(place, arguments, said):
    code, output = place.run("controller", *arguments)
    assert code == USAGE, output
    assert said in output
    assert not list(place.folder.rglob("*.json"))


@pytest.mark.parametrize("content, said", [("[scheduler]\nhvm = 1\n", "hwm"), ("[scheduler\n", "ipcluster.toml")])
def test_a_settings_file_that_is_wrong_is_named(place, content, said):
    place.profile_dir().mkdir(parents=True)
    file = place.profile_dir() / "ipcluster.toml"
    file.write_text(content)
    code, output = place.run("controller")
    assert code == USAGE
    assert str(file) in output and said in output


@pytest.mark.parametrize("arguments", [["--ip=192.0.2.1"], ["--ip=nosuch.invalid"], ["--cluster-id=../x"], ["--profile=a/b"]])
def test_what_cannot_be_is_refused(place, arguments):
    code, output = place.run("controller", *arguments)
    assert code in (FAILED, USAGE)
    assert output.strip()
    assert not list(place.folder.rglob("ipcontroller*.json"))


def test_a_profile_folder_that_cannot_be_made(place, tmp_path):
    (tmp_path / "file").write_text("")
    code, output = place.run("controller", f"--profile-dir={tmp_path}/file/profile")
    assert code == FAILED
    assert f"{tmp_path}/file" in output


def test_help_and_version_are_quick_and_need_nothing():
    for arguments in (["--version"], ["--help"], ["controller", "--help"], ["engine", "--help"]):
        done = subprocess.run([BINARY, *arguments], env={}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0
        assert "ipcluster" in done.stdout and not done.stderr


def test_one_process_and_no_python(place):
    import psutil

    controller = place.controller()
    assert psutil.Process(controller.pid).children() == []
    assert [process.pid for process in place.remaining()] == [controller.pid]


def test_the_limit_on_open_files_is_raised(place):
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    lowered = f"ulimit -S -n 64 && exec '{BINARY}' controller"
    program = place.start(["sh", "-c", lowered])
    program.wait_for("listens on")
    if sys.platform == "linux":
        limits = open(f"/proc/{program.pid}/limits").read()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert line.split()[3] == line.split()[4] == str(hard)
