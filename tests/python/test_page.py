"""The status page in a real browser, while a real client runs real work. Screenshots stay in target/screenshots."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from cluster_fixtures import PATIENCE, clusters, wait_until  # noqa: F401
from test_dashboard import Dashboard, fail, work

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and its driver are not installed")

SCREENSHOTS = Path(__file__).resolve().parents[2] / "target" / "screenshots"

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1250",
]  # fmt: skip


class Page:
    """A page that is open in a browser."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get(address)
        self.wait_for("return document.getElementById('connection').className === 'live'", "the first news")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, script, what):
        return wait_until(lambda: self.run(script), what)

    def text(self, id):
        return self.driver.find_element("id", id).text

    def number(self, id):
        return int(self.text(id).replace(",", ""))

    def open(self, tab):
        self.driver.find_element("id", f"tab-{tab}").click()

    def rows(self, table):
        return self.run(
            f"return [...document.querySelectorAll('#{table} tbody tr')].filter(row => !row.hidden)"
            ".map(row => [...row.cells].map(cell => cell.textContent))"
        )

    def stream(self):
        """What the task stream shows: engine, outcome, function, label of each task."""
        return self.run(
            "return window.ipcluster.stream.entries.map(entry => [entry[1], entry[4], entry[5], entry[6], entry[7]])"
        )

    def screenshot(self, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def errors(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(clusters, driver):  # noqa: F811
    cluster = clusters.start(4, "--dashboard", "--", "--dictdb")
    page = Page(driver, Dashboard(clusters).address)
    yield page
    errors = page.errors()
    driver.get("about:blank")
    cluster.signal(signal.SIGINT)
    assert cluster.wait() == 0
    assert not errors


def simulate(x):
    import time

    time.sleep(0.02 + x % 7 * 0.01)
    print(f"sample {x}")
    if x % 11 == 5:
        raise ValueError(f"sample {x} is bad")
    return x


def test_the_page_shows_what_runs(clusters, page):  # noqa: F811
    # The token is not left where others see it.
    assert "token" not in page.run("return location.href")
    with clusters.client() as client:
        view = client.load_balanced_view()
        results = view.map_async(simulate, range(120))
        with view.temp_flags(label="night/reduce"):
            labelled = view.map_async(work, range(40))
        client[:].execute("x = 1", block=True)
        page.wait_for("return window.ipcluster.stream.entries.length > 60", "half of the tasks")
        page.screenshot("overview-at-work")
        results.wait(PATIENCE)
        labelled.wait(PATIENCE)
        page.wait_for("return window.ipcluster.stream.entries.length === 164", "all tasks")

        # Figures are the hub's.
        failed = sum(x % 11 == 5 for x in range(120))
        status = client.queue_status()
        completed = sum(status[id]["completed"] for id in client.ids)
        wait_until(lambda: page.number("n-done") + page.number("n-failed") == completed, "the last figures")
        assert (page.number("n-done"), page.number("n-failed")) == (164 - failed, failed)
        figures = lambda: tuple(map(page.number, ("n-engines", "n-waiting", "n-running")))
        wait_until(lambda: figures() == (4, 0, 0), "nothing that waits or runs")

        # The stream has the tasks that ran, each once, on the engine that ran it.
        shown = page.stream()
        assert sorted(id for *_, id in shown if _[2] != "execute: x = 1") == sorted(results.msg_ids + labelled.msg_ids)
        engines = dict(zip(results.msg_ids, results.engine_id))
        assert all(engines.get(id, engine) == engine for engine, *_, id in shown)
        assert sum(status == "failed" for _, status, *_ in shown) == failed
        # Also of those that failed it is known how long they took.
        times = page.run("return window.ipcluster.stream.entries.filter(e => e[4] === 'failed').map(e => e[3] - e[2])")
        assert min(times) >= 20_000
        assert {name for _, _, name, *_ in shown} == {"map simulate", "map work", "execute: x = 1"}
        assert sum(label == "night/reduce" for _, _, _, label, _ in shown) == 40
        # What is drawn comes with a later frame, or in its own time.
        page.wait_for("return window.ipcluster.stream.drawn.length === 164", "all bars")
        wait_until(lambda: "164 of 164" in page.text("clients"), "the client's progress")
        assert "120 of" not in page.text("clients") and f"{failed} failed" in page.text("clients")
        functions = lambda: {row[0]: row[1:3] for row in page.wait_for(rows_of("functions", 3), "the functions")}
        expected = {"map simulate": ["120", str(failed)], "map work": ["40", "0"], "execute": ["4", "0"]}
        wait_until(lambda: functions() == expected, "every call")
        page.screenshot("overview")

        # A task's details come under the pointer, and by keyboard.
        canvas = page.driver.find_element("css selector", "#stream canvas")
        canvas.send_keys(",")
        page.wait_for("return !document.getElementById('tip').hidden", "the details")
        assert "on engine" in page.text("tip")
        canvas.send_keys("+", "+")
        page.screenshot("stream-zoomed")
        canvas.send_keys("0")

        page.open("engines")
        rows = lambda: {int(row[0]): row for row in page.wait_for(rows_of("engine-table", 4), "the table")}
        counts = lambda: {id: int(row[8]) for id, row in rows().items()}
        wait_until(lambda: counts() == {id: status[id]["completed"] for id in client.ids}, "what each has done")
        assert all(row[12].startswith("sample ") for row in rows().values())
        page.wait_for(
            "return [...document.querySelectorAll('#engine-table tbody tr')].every(row => row.cells[10].textContent.endsWith('MiB'))",
            "the engines' memory",
        )
        page.screenshot("engines")

        page.open("tasks")
        page.wait_for(rows_of("task-table", 164), "the records")
        page.driver.find_element("name", "label").send_keys("night/*")
        page.driver.find_element("css selector", "#search button").click()
        page.wait_for(rows_of("task-table", 40), "those with the label")
        page.driver.find_element("name", "label").clear()
        page.run("document.querySelector('[name=state]').value = 'failed'")
        page.driver.find_element("css selector", "#search button").click()
        page.wait_for(rows_of("task-table", failed), "those that failed")
        page.driver.find_element("css selector", "#task-table tbody button").click()
        page.wait_for("return document.getElementById('details').open", "the record")
        details = page.text("details")
        assert "is bad" in details and "raise ValueError" in details and "sample" in details
        page.screenshot("task")
        page.run("document.getElementById('details').close()")
        page.screenshot("tasks")

        page.open("log")
        page.wait_for("return document.querySelectorAll('#lines li').length >= 4", "the log")
        page.screenshot("log")
        page.driver.find_element("id", "theme").click()
        page.open("overview")
        page.wait_for("return document.documentElement.dataset.theme === 'dark'", "the dark")
        time.sleep(0.3)  # Drawn with the next frame; only the picture depends on it.
        page.screenshot("overview-dark")
        page.driver.find_element("id", "theme").click()


def rows_of(table, count):
    return (
        f"const rows = [...document.querySelectorAll('#{table} tbody tr')];"
        f"return rows.length === {count} && rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )


def test_a_dead_engine_shows(clusters, page):  # noqa: F811
    page.open("engines")
    page.wait_for(rows_of("engine-table", 4), "four engines")
    # The page takes the time itself: asking it takes some, too.
    page.run(
        "window.seen = null; const wait = () => document.querySelectorAll('#engine-table tbody tr.dead').length === 1 ?"
        " window.seen = Date.now() : setTimeout(wait, 5); wait()"
    )
    died = time.time()
    clusters.kernels()[2].send_signal(signal.SIGKILL)
    seen = page.wait_for("return window.seen", "the engine's row to say so") / 1000
    print(f"a dead engine showed after {seen - died:.3f} s")
    # It is among the others, and is not counted with them.
    rows = page.rows("engine-table")
    (dead,) = [row for row in rows if row[3] == "dead"]
    assert "SIGKILL" in dead[4] and len(rows) == 4
    wait_until(lambda: page.text("engine-count") == "3 registered, 1 dead", "the count")
    assert page.run("return [...document.querySelectorAll('tr.dead button')].map(button => button.disabled)") == [False, True, True]
    page.wait_for("return document.getElementById('said').textContent.includes('has died')", "the word")
    (departed,) = page.wait_for(rows_of("departed", 1), "the list of the dead")
    assert "SIGKILL" in departed[2]
    page.screenshot("engine-died")
    page.open("overview")
    page.wait_for("return document.getElementById('n-engines').textContent === '3'", "the figure")


def test_an_engine_that_starts_again_shows(clusters, page):  # noqa: F811
    # The next kernel is not ready before that.
    event = clusters.folder / "go"
    startup = clusters.profile_dir / "startup" / "00-wait.py"
    startup.parent.mkdir(exist_ok=True)
    startup.write_text(f"import os, time\nwhile not os.path.exists({str(event)!r}): time.sleep(0.01)\n")
    page.open("engines")
    page.wait_for(rows_of("engine-table", 4), "four engines")
    page.run(
        "window.states = []; const look = () => { const row = document.querySelector('#engine-table tbody tr');"
        " const state = row?.cells[3].textContent; if (state !== window.states.at(-1)) window.states.push(state);"
        " setTimeout(look, 2); }; look()"
    )
    page.driver.find_element("css selector", "[aria-label='Restart engine 0']").click()
    page.driver.find_element("id", "confirm-yes").click()
    page.wait_for("return window.states.at(-1) === 'starting'", "the engine's beginning")
    wait_until(lambda: page.text("engine-count") == "3 registered, 1 starting", "the count")
    page.wait_for("return document.getElementById('n-engines').textContent === '3'", "the figure")
    page.screenshot("engine-starting")
    event.touch()
    states = page.wait_for(
        "return window.states.length > 1 && window.states.at(-1) === 'idle' && window.states", "the engine's return"
    )
    assert states[0] == "idle" and set(states) <= {"idle", "restarting", "starting"}, states


def test_another_controller_s_clients_are_not_shown(clusters, page):  # noqa: F811
    nobody = "No client has submitted anything yet."
    assert page.text("clients") == nobody
    with clusters.client() as client:
        client.load_balanced_view().map_sync(work, range(10))
        page.wait_for("return document.querySelectorAll('#clients .client').length === 1", "the client")
        assert nobody not in page.text("clients")
    # As a page that was left open hears it of the next controller at the same address.
    shown = page.run(
        """
        const page = window.ipcluster;
        const state = { kind: "state", started: page.started + 1e6, about: page.about, now: 0, ended: 0, stream: [], engines: [], clients: [], samples: [], log: [] };
        page.onMessage(state);
        page.tick();
        const nobody = document.getElementById("clients").innerText;
        page.onChanges({ kind: "changes", clients: [{ client: "next", total: 5, done: 1, failed: 0, blocked: 0, ready: 4, left: 1, name: "f", at: 0 }] });
        page.tick();
        return [nobody, document.title, [...document.querySelectorAll("#clients .client")].map((row) => row.dataset.client)];
        """
    )
    assert shown[0] == nobody and shown[1].startswith("20% · ") and shown[2] == ["next"]


def wait_for(event):
    """Works until the file is there."""
    import os
    import time

    while not os.path.exists(event):
        time.sleep(0.005)


def test_progress_tells_what_waits_for_what(clusters, page, tmp_path):  # noqa: F811
    event = tmp_path / "go"
    with clusters.client() as client:
        view = client.load_balanced_view()
        first = view.map_async(wait_for, [str(event)] * 6, chunksize=1)
        with view.temp_flags(after=first):
            then = view.map_async(work, range(30), chunksize=1)
        page.wait_for(
            "return document.querySelector('#clients .client')?.lastElementChild.textContent"
            " === '0 of 36 · 4 running · 2 ready · 30 waiting for dependencies'",
            "the progress",
        )
        wait_until(lambda: page.text("n-blocked") == "30 of them for dependencies", "the figure")
        wait_until(lambda: page.number("n-waiting") == 32, "the figure")
        bar = page.driver.find_element("css selector", "#clients [role=progressbar]")
        assert bar.get_attribute("aria-valuetext") == "0 of 36, 4 running, 2 ready, 30 waiting for dependencies"
        assert (bar.get_attribute("aria-valuenow"), bar.get_attribute("aria-valuemax")) == ("0", "36")
        widths = page.run("return [...arguments[0].children].map(part => part.getBoundingClientRect().width)", bar)
        whole = sum(widths)
        assert [round(36 * width / whole) for width in widths] == [0, 0, 4, 2, 30]
        # What runs is in the stream before it has ended.
        running = page.wait_for(
            "const drawn = window.ipcluster.stream.drawn ?? []; return drawn.length === 4 && drawn.map(([entry]) => [entry[4], entry[5]])",
            "the bars of what runs",
        )
        assert running == [["running", "map wait_for"]] * 4
        page.wait_for("return document.title.startsWith('0% · ipcluster')", "the title")
        page.screenshot("progress")
        event.touch()
        then.wait(PATIENCE)
        page.wait_for(
            "return document.querySelector('#clients .client').lastElementChild.textContent === '36 of 36'", "the end"
        )
        page.wait_for("return document.title.startsWith('ipcluster')", "the title")


def test_an_engine_is_interrupted_from_the_page(clusters, page):  # noqa: F811
    with clusters.client() as client:
        sleeping = client[0].execute("print('begun', flush=True); import time; time.sleep(600)")
        page.open("engines")
        page.wait_for("return window.ipcluster.engines.get(0).output.includes('begun')", "the work's beginning")
        page.wait_for("return document.querySelector('#engine-table tbody tr').cells[3].textContent === 'busy'", "its row")
        page.driver.find_element("css selector", "[aria-label='Interrupt engine 0']").click()
        page.screenshot("confirm")
        page.driver.find_element("id", "confirm-yes").click()
        with pytest.raises(Exception, match="KeyboardInterrupt"):
            sleeping.get(timeout=PATIENCE)


def test_a_page_that_is_left_open_does_not_grow(clusters, page):  # noqa: F811
    with clusters.client() as client:
        view = client.load_balanced_view()
        view.map_sync(work, range(400))
        view.map_async(fail, range(10)).wait(PATIENCE)
        page.wait_for("return window.ipcluster.stream.total >= 410", "the tasks")
    # Much more than any cluster tells it in a day.
    grown = page.run(
        """
        const page = window.ipcluster;
        const now = page.now();
        for (let round = 0; round < 400; round += 1) {
            const stream = [...Array(100).keys()].map((n) => {
                const seq = 1000 + round * 100 + n;
                return [seq, n % 4, now - 1e6, now, n % 9 ? "ok" : "failed", `f${seq}`, null, `id_${seq}`, `client${seq}`, now - 2e6, "task", null];
            });
            page.onChanges({
                kind: "changes", now: now + round, totals: page.totals, ended: 1000 + (round + 1) * 100, unfollowed: 0, stream,
                engines: [], gone: [], clients: [{client: `client${round}`, total: 5, done: 1, failed: 0, left: 1, name: "f", at: round, ever: 5, since: 0}],
                samples: [...Array(20).keys()].map((n) => [now + (round * 20 + n) * 1e6, 1, 1, 0, 0, 0, 4, 0, 0.1, 0.2, 0.1, 1e6, 0.1, 1e6]),
                log: [...Array(10).keys()].map((n) => [1000 + round * 10 + n, Date.now(), "info", "hub", "a line"]),
            });
            page.tick();
            if (round % 50 === 0) page.stream.draw();
        }
        page.stream.draw();
        return page.sizes();
        """
    )
    print(json.dumps(grown))
    assert grown["stream"] <= 12000 and grown["samples"] <= 3600 and grown["lines"] <= 500
    assert grown["clients"] <= 200 and grown["colours"] <= 502 and grown["nodes"] < 2500
    page.screenshot("much")


def test_a_thousand_engines_are_shown(clusters, page):  # noqa: F811
    shown = page.run(
        """
        const page = window.ipcluster;
        const now = page.now();
        const engines = [...Array(1000).keys()].map((id) => ({
            id: id + 10, uuid: `uuid-${id}`, phase: id % 251 ? "up" : "dead", how: id % 251 ? null : "killed by SIGKILL", since: now - 5e6, tasks: id % 3, queue: 0, completed: id * 7, failed: id % 50 ? 0 : 3,
            host: `node${String(id >> 4).padStart(3, "0")}`, pid: 1000 + id, memory: 50e6 + id * 1e5, cpu: (id % 100) / 100, output: [`line of ${id}`],
            current: id % 3 ? { msg_id: "m", name: "map simulate", label: null, since: now - id * 1e4 } : null,
        }));
        const stream = [...Array(8000).keys()].map((n) => {
            const [engine, end] = [n % 1000, now - Math.floor(n / 1000) * 5e6 - (n % 37) * 1e5];
            return [n + 1000, engine + 10, end - 3e6 - (n % 11) * 1e5, end, n % 97 ? "ok" : "failed", ["simulate", "reduce", "load"][n % 3], null, `id_${n}`, "c", end - 5e6, "task", null];
        });
        page.onChanges({ kind: "changes", now, totals: page.totals, ended: 9000, unfollowed: 0, stream, engines, gone: [], clients: [], samples: [], log: [] });
        page.tick();
        page.stream.isFree = false;
        const begin = performance.now();
        page.stream.draw();
        return performance.now() - begin;
        """
    )
    print(f"8,000 tasks on 1,000 engines are drawn in {shown:.0f} ms")
    page.screenshot("thousand-engines-stream")
    page.open("engines")
    page.wait_for(rows_of("engine-table", 1004), "all rows")
    page.screenshot("thousand-engines")
    page.driver.find_element("id", "engine-filter").send_keys("node003")
    page.wait_for("return document.getElementById('engine-count').textContent.startsWith('16 of')", "one node's engines")
    page.driver.find_element("id", "engine-filter").clear()
    page.driver.find_element("id", "engine-filter").send_keys(" ")
    page.run("[...document.querySelectorAll('#engine-table th button')].find(b => b.textContent === 'Completed').click()")
    (first, *_) = page.rows("engine-table")
    assert first[8] == "6,993"


def test_a_page_says_when_the_controller_is_gone(clusters, driver):  # noqa: F811
    cluster = clusters.start(1, "--dashboard")
    page = Page(driver, Dashboard(clusters).address)
    cluster.signal(signal.SIGINT)
    assert cluster.wait() == 0
    page.wait_for("return document.getElementById('connection').className === 'lost'", "the loss to show")
    assert "cannot be reached" in page.text("notice") or "ended" in page.text("notice")
    page.screenshot("lost")
    driver.get("about:blank")
    # The browser says that its connection broke.
    assert page.errors()


def test_the_report_is_a_page_of_its_own(clusters, driver, tmp_path):  # noqa: F811
    cluster = clusters.start(3, "--dashboard")
    with clusters.client() as client:
        view = client.load_balanced_view()
        view.map_async(simulate, range(60)).wait(PATIENCE)
        for x in range(4):
            client[0].execute(f"x = {x}", block=True)
        with view.temp_flags(label="night"):
            view.apply_async(fail, 1).wait(PATIENCE)
    file = tmp_path / "report.html"
    wait_until(lambda: "with 65 tasks" in clusters.ok("report", str(file)), "all of them")
    cluster.signal(signal.SIGINT)
    assert cluster.wait() == 0
    driver.get(file.as_uri())
    assert wait_until(lambda: driver.execute_script("return window.ipcluster?.stream.drawn?.length"), "the bars") == 65
    table = "return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr')].map(row => [...row.cells].slice(0, 3).map(cell => cell.textContent))"
    rows = driver.execute_script(table, "functions")
    # Executed code is one function; what has a label goes by that.
    failed = str(sum(x % 11 == 5 for x in range(60)))
    assert rows[0] == ["map simulate", "60", failed] and sorted(rows[1:]) == [["execute", "4", "0"], ["night", "1", "1"]]
    engines = driver.execute_script(table, "engines")
    assert [row[0] for row in engines] == ["0", "1", "2"] and sum(int(row[1]) for row in engines) == 65
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(SCREENSHOTS / "report.png"))
    assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    driver.get("about:blank")
