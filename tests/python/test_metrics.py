"""/metrics, and the example of a dashboard for Grafana: each of its fields is one that Grafana knows, each query is PromQL,
and asks for metrics and labels that there are. Where Prometheus is installed, it takes the figures and answers the queries."""

import json
import re
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request

import promql_parser
import pytest
from cluster_fixtures import PATIENCE, clusters, wait_until  # noqa: F401
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard
from ports import free_port
from programs import CHECKOUT
from prometheus_client.parser import text_string_to_metric_families
from test_dashboard import Dashboard, fail, work

FILE = CHECKOUT / "packaging" / "grafana" / "ipcluster.json"

# What Grafana puts in their places (https://grafana.com/docs/grafana/latest/dashboards/variables).
VARIABLES = {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "1h", "$job": ".*", "$instance": ".*"}


@pytest.fixture
def dashboard(clusters):  # noqa: F811
    cluster = clusters.start(2, "--dashboard")
    with clusters.client() as client:
        view = client.load_balanced_view()
        view.map_sync(work, range(20))
        view.map_async(fail, range(2), chunksize=1).wait(PATIENCE)
        client[:].apply_sync(work, 1)
    dashboard = Dashboard(clusters)
    wait_until(lambda: dashboard.totals("ok") == 22, "the last of it")
    yield dashboard
    cluster.signal(signal.SIGINT)
    assert cluster.wait() == 0, cluster.text()


def families(dashboard):
    status, headers, text = dashboard.ask("/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_metrics_are_as_prometheus_wants_them(clusters, dashboard):  # noqa: F811
    before = families(dashboard)
    units = {"seconds", "bytes", "info"}
    for name, family in before.items():
        assert family.documentation.endswith("."), name
        assert family.type in ("counter", "gauge", "histogram"), name
        # A unit that is not the base unit is not among the names; what has none counts things.
        assert not re.search(r"_(ms|millis|milliseconds|minutes|kb|mb|percent|ratio)(_|$)", name), name
        if family.type == "histogram":
            assert name.endswith("_seconds")
        if "memory" in name or "cpu" in name:
            assert name.rsplit("_", 1)[-1] in units, name
    samples = lambda found: {(s.name, tuple(sorted(s.labels))) for f in found.values() for s in f.samples}  # noqa: E731
    series = lambda found: {(s.name, tuple(sorted(s.labels.items()))) for f in found.values() for s in f.samples}  # noqa: E731
    ended = {tuple(s.labels.items()): s.value for s in before["ipcluster_requests_ended"].samples}
    assert ended[("queue", "task"), ("status", "ok")] == 20 and ended[("queue", "task"), ("status", "failed")] == 2
    # Whoever works here, and at whatever: there are no more series than before.
    for label in ("a", "b"):
        with clusters.client() as client:
            view = client.load_balanced_view()
            with view.temp_flags(label=label):
                view.apply_sync(work, 2)
            client[:].execute(f"{label} = 1", block=True)
    wait_until(lambda: dashboard.totals("ok") == 22 + 6, "the last of it")
    after = families(dashboard)
    assert series(after) == series(before) and len(series(after)) < 120
    assert {labels for _, labels in samples(after)} <= {(), ("version",), ("queue",), ("queue", "status"), ("le",)}


def dashboard_file():
    return json.loads(FILE.read_text())


def queries():
    """Panel, and query with what Grafana fills in."""
    for panel in dashboard_file()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for variable, value in VARIABLES.items():
                text = text.replace(variable, value)
            assert "$" not in text, text
            yield panel["title"], text


def lost(ours, theirs, path=""):
    """What another reading of it does not have, or has otherwise."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from lost(value, theirs[key], f"{path}.{key}") if key in theirs else [f"{path}.{key}"]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs)):
            yield from lost(*pair, f"{path}[{number}]")
    elif ours != theirs:
        yield f"{path}: {ours!r} is {theirs!r}"


def test_grafana_knows_every_field_of_the_dashboard():
    register_default_plugins()
    ours = dashboard_file()
    read = GrafanaDashboard.from_json(ours)
    written = json.loads(JSONEncoder(sort_keys=True, indent=2).encode(read))
    assert list(lost(ours, written)) == []
    # What Grafana does not know gets lost.
    odd = {**ours, "panels": [{**ours["panels"][0], "tittle": "a slip of the pen"}]}
    written = json.loads(JSONEncoder().encode(GrafanaDashboard.from_json(odd)))
    assert list(lost(odd, written)) == [".panels[0].tittle"]

    panels = ours["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) and len(panels) >= 12
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    cells = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not own & cells and place["x"] + place["w"] <= 24, panel["title"]
        cells |= own


def selectors(expression):
    """Each choice of series, and the functions that it goes through from the outermost on."""

    def walk(node, through):
        if isinstance(node, promql_parser.VectorSelector):
            yield node, through
        elif isinstance(node, promql_parser.MatrixSelector):
            yield node.vector_selector, through
        elif isinstance(node, promql_parser.Call):
            for argument in node.args:
                yield from walk(argument, (*through, node.func.name))
        elif isinstance(node, promql_parser.AggregateExpr):
            yield from walk(node.expr, (*through, str(node.op)))
        elif isinstance(node, promql_parser.BinaryExpr):
            yield from walk(node.lhs, through)
            yield from walk(node.rhs, through)
        elif isinstance(node, (promql_parser.ParenExpr, promql_parser.UnaryExpr)):
            yield from walk(node.expr, through)

    return list(walk(promql_parser.parse(expression), ()))


def test_every_query_asks_for_what_there_is(dashboard):
    found = families(dashboard)
    kinds = {sample.name: family.type for family in found.values() for sample in family.samples}
    labels = {}
    for family in found.values():
        for sample in family.samples:
            for label, value in sample.labels.items():
                labels.setdefault((sample.name, label), set()).add(value)
    asked = set()
    for title, text in queries():
        chosen = selectors(text)
        assert chosen, title
        for selector, through in chosen:
            asked.add(selector.name)
            assert selector.name in kinds, f"{title}: there is no {selector.name}"
            grows = kinds[selector.name] in ("counter", "histogram")
            assert grows == bool({"rate", "increase"} & set(through)), f"{title}: {text}"
            if selector.name.endswith("_bucket"):
                assert through[0] == "histogram_quantile" and "by (le)" in text.replace("by(le)", "by (le)"), title
            for matcher in selector.matchers.matchers:
                # Those two are Prometheus's own.
                if matcher.name not in ("job", "instance"):
                    assert matcher.value in labels[selector.name, matcher.name], f"{title}: {matcher.name}={matcher.value}"
    assert len(asked) >= 12
    with pytest.raises(Exception, match="unclosed left parenthesis"):
        promql_parser.parse("sum(rate(a[5m])")
    for variable in dashboard_file()["templating"]["list"]:
        if variable["type"] == "query":
            (metric,) = re.match(r"label_values\((\w+)(?:\{.*\})?, \w+\)$", variable["query"]).groups()
            assert metric in kinds


@pytest.mark.skipif(not shutil.which("prometheus"), reason="Prometheus is not installed")
def test_prometheus_takes_the_figures_and_answers(clusters, dashboard, tmp_path):  # noqa: F811
    _, _, text = dashboard.ask("/metrics")
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=PATIENCE)
    assert checked.returncode == 0 and not checked.stderr, checked.stderr
    settings = tmp_path / "prometheus.yml"
    settings.write_text(
        f"global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: ipcluster\n"
        f"  authorization: {{credentials: {dashboard.token}}}\n  static_configs: [{{targets: ['{dashboard.host}:{dashboard.port}']}}]\n"
    )
    port = free_port()
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        ["prometheus", f"--config.file={settings}", f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=log, stderr=log,
    )  # fmt: skip
    try:
        def ask(query):
            url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
            try:
                with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                    return json.load(answer)["data"]["result"]
            except urllib.error.HTTPError as error:
                # It reads what it kept first.
                if error.code == 503:
                    return None
                raise AssertionError(f"{query}: {error.read().decode()}") from None
            except urllib.error.URLError:
                return None

        wait_until(lambda: ask("count_over_time(ipcluster_engines[1m]) >= 3"), "some samples")
        for title, text in queries():
            assert wait_until(lambda: ask(text), f"{title}: {text}"), title
        (engines,) = ask("sum(ipcluster_engines)")
        assert engines["value"][1] == "2"
    finally:
        server.terminate()
        server.wait()
        log.close()
