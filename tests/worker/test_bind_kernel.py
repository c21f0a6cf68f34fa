"""A frontend attaches to an engine's kernel."""

import marks
import pytest

pytestmark = marks.ipyparallel


@pytest.fixture
def bound(start, tmp_path):
    kernel = start(session={"key": "of-the-cluster"})
    kernel.execute("import ipyparallel; ipyparallel.bind_kernel(); ipyparallel.bind_kernel(); a = 5").ok
    (connection_file,) = tmp_path.glob("ipython/profile_default/security/kernel-*.json")
    from jupyter_client import BlockingKernelClient

    client = BlockingKernelClient()
    client.load_connection_file(str(connection_file))
    client.start_channels()
    client.wait_for_ready(timeout=20)
    yield kernel, client
    client.stop_channels()


def test_frontend_shares_the_namespace(bound):
    kernel, client = bound
    assert client.session.key == b"of-the-cluster"
    seen = []
    reply = client.execute_interactive("b = a + 1; print('printed'); b", timeout=20, output_hook=seen.append)
    assert reply["content"]["status"] == "ok"
    by_type = {m["header"]["msg_type"]: m["content"] for m in seen}
    assert by_type["stream"]["text"].strip() == "printed" or "printed" in str(seen)
    assert by_type["execute_result"]["data"]["text/plain"] == "6"
    assert kernel.value(lambda: b) == 6  # noqa: F821


def test_engine_goes_on_beside_the_frontend(bound):
    kernel, client = bound
    client.execute("import asyncio; await asyncio.sleep(0.2); c = 1")
    assert kernel.value(lambda: "in turn") == "in turn"
    assert (
        client.execute_interactive("1 / 0", timeout=20, output_hook=lambda m: None)["content"]["ename"]
        == "ZeroDivisionError"
    )
    result = kernel.execute("print('to both')").ok
    assert "to both" in result.streams()
