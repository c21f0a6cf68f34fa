"""What users of IPython expect of an engine, beyond what ipyparallel's own suite looks at."""

import collections
import os
import subprocess
import sys
import tempfile

import ipyparallel
import numpy
import pandas
import pytest
from ipyparallel import error
from programs import GENEROUS, wait_until


@pytest.fixture(scope="module")
def client(shared_place):
    shared_place.controller()
    shared_place.engines(2)
    return shared_place.client(2)


@pytest.fixture
def view(client):
    view = client[:]
    yield view



def run(view, code):
    result = view.execute(code, silent=False)
    result.get(GENEROUS)
    result.wait_for_output(GENEROUS)
    return result


def shown(view, code):
    return run(view, code).execute_result["data"]["text/plain"]


# ---- cells


def test_cells_await(client):
    assert shown(client[0], "import asyncio\nawait asyncio.sleep(0.01)\nawait asyncio.gather(asyncio.sleep(0, 6))") == "[6]"


def test_figures_are_shown_inline(client):
    cell = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    result = run(client[0], cell)
    assert any("image/png" in output.get("data", {}) for output in result.outputs)
    assert client[0].apply_sync(lambda: sys.modules["matplotlib"].get_backend()).endswith("inline")


def test_pylab(client):
    result = run(client[1], "%pylab inline")
    assert "pylab" in result.stdout
    assert shown(client[1], "type(linspace(0, 1, 3)).__name__") == "'ndarray'"


def test_rich_display_from_a_function(client):
    def show():
        from IPython.display import HTML, display

        display(HTML("<b>bold</b>"))

    result = client[0].apply_async(show)
    result.get(GENEROUS)
    result.wait_for_output(GENEROUS)
    assert result.outputs[0]["data"]["text/html"] == "<b>bold</b>"


def test_output_of_threads_and_of_subprocesses(client):
    code = """
import subprocess, sys, threading
thread = threading.Thread(target=print, args=('from a thread',))
thread.start(); thread.join()
n = subprocess.call([sys.executable, '-c', "print('from a subprocess \\N{SNOWMAN}')"], env={'PYTHONIOENCODING': 'utf-8'})
!echo from the shell
"""
    result = run(client[0], code)
    for text in ("from a thread\n", "from a subprocess \N{SNOWMAN}\n", "from the shell"):
        assert text in result.stdout


def test_large_and_odd_text(client):
    text = "\N{SNOWMAN}é\0\r\n" * 100_000
    result = run(client[0], "print('\\N{SNOWMAN}é\\0\\r\\n' * 100_000, end='')")
    assert result.stdout == text


# ---- objects


def test_arrays_records_and_frames(view):
    record = numpy.array([(1, 2.5), (3, 4.5)], dtype=[("a", int), ("b", float)]).view(numpy.recarray)
    frame = pandas.DataFrame({"x": [1, 2], "y": ["a", "b"]}, index=pandas.date_range("2024", periods=2))
    strided = numpy.arange(100).reshape(10, 10)[::2, ::3]
    for sent in (record, strided, numpy.array(["text", None], dtype=object), numpy.float32(2.5), numpy.zeros((0, 3))):
        view.push({"it": sent}, block=True)
        for got in view.pull("it", block=True):
            numpy.testing.assert_array_equal(got, sent)
            assert type(got) is type(sent) and got.dtype == sent.dtype
    view.push({"it": frame}, block=True)
    for got in view.pull("it", block=True):
        pandas.testing.assert_frame_equal(got, frame, check_freq=False)


Point = collections.namedtuple("Point", "x y")


def test_named_tuples(view):
    points = view.apply_sync(lambda point: (point, point.x + point.y), Point(1, [2][0]))
    assert points == [(Point(1, 2), 3)] * 2
    assert type(points[0][0]) is Point


@pytest.mark.parametrize("pickler", ["dill", "cloudpickle"])
def test_other_picklers(shared_place, pickler):
    client = shared_place.client(2)
    view = client[:]
    try:
        getattr(view, f"use_{pickler}")()
        offset = 40

        class Adder:
            def __call__(self, x):
                return x + offset

        assert view.apply_sync(Adder(), 2) == [42, 42]
    finally:
        view.use_pickle()
        ipyparallel.serialize.use_pickle()


def test_imports_on_both_sides(view):
    with view.sync_imports(quiet=True):
        import colorsys  # noqa: F401
    view.execute("seen = colorsys.__name__", block=True)
    assert view.pull("seen", block=True) == ["colorsys"] * 2


def test_requirements_and_references(view):
    @ipyparallel.require("numpy")
    def root(x):
        return float(numpy.sqrt(x))

    view.push({"number": 16}, block=True)
    assert view.apply_sync(root, ipyparallel.Reference("number")) == [4.0, 4.0]
    with pytest.raises(error.CompositeError, match="no_such_name"):
        view.apply_sync(root, ipyparallel.Reference("no_such_name"))


def test_joblib(client):
    import joblib

    ipyparallel.register_joblib_backend()
    with joblib.parallel_backend("ipyparallel", view=client.load_balanced_view()):
        found = joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(20))
    assert found == [n * n for n in range(20)]


# ---- other frontends


def test_a_frontend_attaches_to_the_engine(client):
    """What `jupyter console --existing` does, with the same client."""
    from jupyter_client import BlockingKernelClient

    client[:].apply_sync(ipyparallel.bind_kernel)
    client[0].push({"number": 41}, block=True)
    file = client[0].apply_sync(connection_file)
    frontend = BlockingKernelClient(connection_file=file)
    frontend.load_connection_file()
    frontend.start_channels()
    try:
        frontend.wait_for_ready(timeout=GENEROUS)
        printed = []
        reply = frontend.execute_interactive(
            "number += 1; print(number)",
            timeout=GENEROUS,
            output_hook=lambda message: printed.append(message["content"].get("text")),
        )
        assert reply["content"]["status"] == "ok" and "42\n" in "".join(filter(None, printed))
        matches = frontend.complete("numb", reply=True, timeout=GENEROUS)["content"]["matches"]
        assert "number" in matches
        # The engine goes on beside it.
        assert client[0].pull("number", block=True) == 42
    finally:
        frontend.stop_channels()


def connection_file():
    from ipykernel.connect import get_connection_file

    return get_connection_file()


def test_comms_and_widgets(client):
    """A widget of a cell: its comm is published, and a message from the frontend's side changes it."""
    result = run(client[0], "import ipywidgets\nslider = ipywidgets.IntSlider(3)\nslider.comm.comm_id")
    comm_id = result.execute_result["data"]["text/plain"].strip("'")
    content = {"comm_id": comm_id, "data": {"method": "update", "state": {"value": 7}, "buffer_paths": []}}
    client._send(client._mux_stream, "comm_msg", content=content, ident=client._engines[0].encode())
    wait_until(lambda: client[0].execute("v = slider.value").get(GENEROUS) and client[0]["v"] == 7, "the new value")
    result = run(client[0], "slider")
    assert "application/vnd.jupyter.widget-view+json" in result.execute_result["data"]


# ---- forked kernels


def test_what_is_preloaded_is_there_and_is_shared(place):
    folder = place.profile_dir()
    folder.mkdir()
    (folder / "ipcluster.toml").write_text('[engine]\npreload = ["numpy", "no_such_module_anywhere"]\n')
    place.controller()
    engines = place.engines(2)
    assert "no_such_module_anywhere" in engines.output
    client = place.client(2)
    seen = client[:].apply_sync(lambda: "numpy" in sys.modules)
    assert seen == [True, True]


def test_forked_kernels_share_no_chance_by_accident(place):
    folder = place.profile_dir()
    folder.mkdir()
    (folder / "ipcluster.toml").write_text('[engine]\npreload = ["numpy.random", "tempfile", "uuid", "secrets"]\n')
    place.controller()
    place.engines(4)
    view = place.client(4)[:]

    def chances():
        import random
        import secrets
        import tempfile
        import uuid

        import numpy.random

        return (
            random.random(),
            float(numpy.random.rand()),
            secrets.token_hex(),
            str(uuid.uuid1()),
            str(uuid.uuid4()),
            tempfile.mktemp(),
        )

    for four in zip(*view.apply_sync(chances)):
        assert len(set(four)) == 4, four


# ---- Pythons


def other_pythons():
    """Other Pythons that are installed here, new enough, each once."""
    found = {}
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), *pyenv_folders()]:
        for minor in range(8, 16):
            path = os.path.join(folder, f"python3.{minor}")
            if minor != sys.version_info.minor and minor not in found and os.access(path, os.X_OK):
                if subprocess.run([path, "-c", "pass"], capture_output=True).returncode == 0:
                    found[minor] = path
    return [found[minor] for minor in sorted(found)]


def pyenv_folders():
    root = os.path.join(os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), "versions")
    return [os.path.join(root, name, "bin") for name in os.listdir(root)] if os.path.isdir(root) else []


@pytest.mark.parametrize("path", other_pythons())
def test_other_pythons_execute(place, path):
    """Whatever they have installed: code runs, and a function that cannot be applied is answered with the reason."""
    place.controller()
    place.engines(1, f"--python={path}")
    client = place.client(1)
    version = os.path.basename(path).removeprefix("python")
    result = run(client[0], "import sys; print('%d.%d' % sys.version_info[:2])")
    assert result.stdout == version + "\n"
    assert shown(client[0], "6 * 7") == "42"
    with pytest.raises(error.RemoteError, match="ZeroDivisionError"):
        client[0].execute("1 / 0").get(GENEROUS)
    try:
        assert client[0].apply_async(abs, -1).get(GENEROUS) == 1
    except error.RemoteError as failure:
        assert "pip install ipyparallel" in str(failure) and os.path.basename(path) in str(failure)


def test_ipython_without_ipyparallel(place, tmp_path):
    """A Python that has IPython, but neither ipykernel nor ipyparallel."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    ours = os.path.dirname(os.path.dirname(ipyparallel.__file__))
    for name in os.listdir(ours):
        if not name.lower().startswith(("ipyparallel", "ipykernel")):
            (site / name).symlink_to(os.path.join(ours, name))
    place.controller()
    engines = place.engines(1, f"--python={folder}/bin/python")
    engines.wait_for("ipyparallel is missing from")
    client = place.client(1)
    assert shown(client[0], "get_ipython().__class__.__mro__[1].__name__") == "'InteractiveShell'"
    assert run(client[0], "%pwd").execute_result is not None
    with pytest.raises(error.RemoteError, match=f"ipyparallel.*{folder}/bin/python -m pip install ipyparallel"):
        client[0].apply_sync(tempfile.gettempdir)
