"""`ipcluster doctor` finds what is wrong, and nothing where nothing is."""

import json
import os
import signal
import socket

import psutil
import pytest
from cluster_fixtures import clusters  # noqa: F401


def examine(clusters, *args):
    """{check: finding}, and whether all is well."""
    done = clusters.run("doctor", "-o", "json", *args)
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1)
    return {found["check"]: found for found in document["findings"]}, document["ok"]


def levels(findings):
    return {check: found["level"] for check, found in findings.items() if found["level"] != "ok"}


def test_nothing_is_wrong_with_a_fresh_profile(clusters):
    found, fine = examine(clusters)
    assert fine and set(levels(found)) <= {"program"}
    assert "does not exist yet" in found["profile"]["found"]
    assert "ipyparallel 9" in found["packages"]["found"]
    assert not clusters.profile_dir.exists(), "it only looks"
    clusters.ok("start", "-n", "1", "--daemonize")
    found, fine = examine(clusters)
    assert fine and "runs and answers" in found["clusters"]["found"]
    text = clusters.ok("doctor")
    assert text.startswith("ok ") or text.startswith("WARNING  program")
    clusters.ok("stop")
    assert not [name for name in os.listdir(clusters.profile_dir) if "doctor" in name]
    clusters.assert_nothing_left()


def test_a_python_that_lacks_something_is_found(clusters, bare_python):
    found, fine = examine(clusters, f"--python={bare_python}")
    assert fine and levels(found)["packages"] == "warning"
    assert f"{bare_python} -m pip install ipyparallel" in found["packages"]["remedy"]
    for python, says in (("/bin/false", "does not work"), ("/no/such", "no such Python: /no/such")):
        found, fine = examine(clusters, f"--python={python}")
        assert not fine and says in found["python"]["found"]


def test_settings_and_launchers_are_looked_at(clusters):
    clusters.ok("profile", "create", "default", "--from", "lsf")
    found, fine = examine(clusters)
    assert not fine and "not on PATH: bjobs, bkill, bsub" in found["launcher"]["found"]
    settings = clusters.profile_dir / "ipcluster.toml"
    settings.write_text('[cluster]\nengins = "local"\n')
    found, fine = examine(clusters)
    assert not fine and "engins" in found["settings"]["found"]
    settings.write_text('[cluster]\nengines = "slrm"\n')
    found, fine = examine(clusters)
    assert not fine and "slrm" in found["launcher"]["found"]


def test_ports_and_names_are_looked_at(clusters):
    clusters.ok("profile", "create", "default")
    settings = clusters.profile_dir / "ipcluster.toml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings.write_text(f'[controller]\nports = "{port}"\n')
        found, fine = examine(clusters)
        assert fine and f"{port} by" in found["ports"]["found"]
    settings.write_text('[controller]\nip = "203.0.113.7"\n')
    found, fine = examine(clusters)
    assert not fine and "203.0.113.7" in found["ports"]["found"]
    settings.write_text('[controller]\nip = "*"\nlocation = "no.such.host.invalid"\n')
    found, fine = examine(clusters)
    assert not fine and "cannot be resolved" in found["host name"]["found"]


def test_what_clusters_have_left_is_found(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    controller = psutil.Process(clusters.pid("controller"))
    controller.suspend()
    found, fine = examine(clusters)
    assert not fine and "does not answer" in found["clusters"]["found"]
    controller.resume()
    os.kill(clusters.pid("supervisor"), signal.SIGKILL)
    clusters.wait_until_gone()
    found, fine = examine(clusters)
    assert fine and levels(found)["stale files"] == "warning"
    clusters.ok("clean")
    assert "stale files" not in examine(clusters)[0]
    clusters.assert_nothing_left()


def test_secrets_that_others_can_read_are_found(clusters):
    clusters.ok("profile", "create", "default")
    security = clusters.profile_dir / "security"
    key = security / "ipcontroller-client.json"
    key.write_text("{}")
    key.chmod(0o644)
    security.chmod(0o755)
    found, fine = examine(clusters)
    assert not fine and str(key) in found["secrets"]["found"]
    key.unlink()


@pytest.mark.parametrize("args", [("--python",), ("extra",), ("-o", "xml"), ("--cluster-id=../x",)])
def test_a_wrong_call_is_refused(clusters, args):
    assert clusters.run("doctor", *args).returncode in (1, 2)
