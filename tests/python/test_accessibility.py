"""The status page for those who use a keyboard, a screen reader, a small screen, other colours or no motion, as Chromium
sees it; and labels and outputs that would be more than text. Screenshots stay in target/screenshots."""

import json
import os
import time
from contextlib import contextmanager

import pytest
from cluster_fixtures import PATIENCE, clusters, wait_until  # noqa: F401
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from test_dashboard import fail, work
from test_page import CHROMIUM, DRIVER, driver, page, rows_of  # noqa: F401

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and its driver are not installed")

TABS = ("overview", "engines", "tasks", "log")

# Roles that are nothing without a name (WAI-ARIA 1.2, "accessible name required", and what is reached by keyboard).
NAMED = {
    "button", "link", "textbox", "searchbox", "combobox", "listbox", "option", "MenuListOption", "tab", "tabpanel", "tablist",
    "img", "image", "application", "Canvas", "progressbar", "meter", "table", "grid", "dialog", "alertdialog", "region",
    "columnheader", "rowheader", "heading", "search",
}  # fmt: skip


@contextmanager
def emulated(page, width=None, height=900, **features):  # noqa: F811
    """Another screen, or other wishes of the user: `emulated(page, 360, prefers_color_scheme="dark")`."""
    send = page.driver.execute_cdp_cmd
    if width:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        send("Emulation.setDeviceMetricsOverride", screen)
    wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    send("Emulation.setEmulatedMedia", {"features": wanted})
    # What depends on it is drawn with the next frames.
    page.driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))")
    try:
        yield
    finally:
        send("Emulation.setEmulatedMedia", {"features": []})
        send("Emulation.clearDeviceMetricsOverride", {})


def tree(page):  # noqa: F811
    """Role, name and properties of everything that a screen reader is told of."""
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = []
    for node in nodes:
        if not node.get("ignored"):
            properties = {one["name"]: one["value"].get("value") for one in node.get("properties", [])}
            found.append((node["role"]["value"], node.get("name", {}).get("value", "").strip(), properties))
    return found


def nameless(page):  # noqa: F811
    return [(role, properties) for role, name, properties in tree(page) if role in NAMED and not name]


def at_work(clusters, page):  # noqa: F811
    """A page that has something to show everywhere."""
    with clusters.client() as client:
        view = client.load_balanced_view()
        view.map_async(work, range(30)).wait(PATIENCE)
        view.map_async(fail, range(3), chunksize=1).wait(PATIENCE)
        client[:].execute("print('hello')", block=True)
    page.wait_for("return window.ipcluster.stream.entries.length === 37", "the tasks")
    clusters.kernels()[3].kill()
    page.wait_for("return window.ipcluster.engines.get(3)?.phase === 'dead'", "a dead engine")


def test_everything_has_a_name_and_a_role(clusters, page):  # noqa: F811
    at_work(clusters, page)
    for tab in TABS:
        page.open(tab)
        if tab in ("engines", "tasks"):
            page.wait_for(rows_of("engine-table", 4) if tab == "engines" else rows_of("task-table", 37), "the rows")
        assert not nameless(page), tab
    found = tree(page)
    roles = {role for role, _, _ in found}
    assert {"banner", "main", "tablist", "tab", "tabpanel"} <= roles, roles
    selected = [name for role, name, properties in found if role == "tab" and properties.get("selected")]
    assert selected == ["Log"]

    page.open("tasks")
    found = tree(page)
    headers = [name for role, name, _ in found if role == "columnheader"]
    assert headers == ["Id", "Label", "Queue", "Engine", "Submitted", "Waited", "Took", "State"]
    assert sum(role == "rowheader" for role, _, _ in found) == 37
    fields = {name for role, name, _ in found if role in ("textbox", "searchbox", "combobox")}
    assert fields == {"Id", "Label", "Client", "Engine", "State", "Submitted"}
    page.driver.find_element("css selector", "#task-table tbody button").click()
    page.wait_for("return document.getElementById('details').open", "the record")
    assert not nameless(page)
    dialog = [properties for role, _, properties in tree(page) if role == "dialog"]
    assert dialog and dialog[0].get("modal")
    # It is left as dialogs are, and what was used before has the keyboard again.
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    page.wait_for("return !document.getElementById('details').open", "the end of the dialog")
    assert page.run("return document.activeElement.closest('#task-table') !== null")

    page.open("engines")
    page.wait_for(rows_of("engine-table", 4), "the engines")
    found = tree(page)
    headers = [(name, properties) for role, name, properties in found if role == "columnheader"]
    assert [name for name, _ in headers][:4] == ["Id", "Host", "Pid", "State"] and len(headers) == 14 + 5
    assert {"Interrupt engine 0", "Restart engine 2", "Output engine 1"} <= {name for role, name, _ in found if role == "button"}
    disabled = {name for role, name, properties in found if role == "button" and properties.get("disabled")}
    assert disabled == {"Interrupt engine 3", "Restart engine 3"}
    page.driver.find_element("css selector", "[aria-label='Interrupt engine 0']").click()
    assert not nameless(page)
    # Whoever presses Enter by mistake has done nothing.
    assert page.run("return document.activeElement.textContent") == "Cancel"
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    page.wait_for("return !document.getElementById('confirm').open", "the end of the question")


FOCUSABLE = """
    const visible = (one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled && one.tabIndex >= 0;
    return [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")].filter(visible).length;
"""

FOCUSED = """
    const one = document.activeElement;
    if (one === document.body) return null;
    const style = getComputedStyle(one);
    const all = [...document.querySelectorAll("*")];
    return {
        at: all.indexOf(one), what: one.id || one.getAttribute("aria-label") || one.textContent.trim().slice(0, 30) || one.className,
        outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        seen: one.getBoundingClientRect().width > 0 && one.getBoundingClientRect().left >= 0,
    };
"""


def test_everything_is_reached_by_keyboard(clusters, page):  # noqa: F811
    at_work(clusters, page)
    # Nothing that comes or goes moves the focus: the tabs are where they were when this began.
    for tab in TABS:
        page.open(tab)
        if tab in ("engines", "tasks"):
            page.wait_for(rows_of("engine-table", 4) if tab == "engines" else rows_of("task-table", 37), "the rows")
        page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
        wanted = page.run(FOCUSABLE)
        reached = []
        # Behind the last comes the browser's own, and then the first.
        for _ in range(wanted + 3):
            ActionChains(page.driver).send_keys(Keys.TAB).perform()
            focused = page.run(FOCUSED)
            if reached and focused and focused["at"] == reached[0]["at"]:
                break
            reached += [focused] if focused else []
        assert len(reached) == wanted, (tab, [one["what"] for one in reached])
        assert all(one["outlined"] and one["seen"] for one in reached), reached
        places = [one["at"] for one in reached]
        # In the order in which it is read, beginning wherever the page was left.
        start = places.index(min(places))
        assert places[start:] + places[:start] == sorted(places), (tab, [one["what"] for one in reached])

    # Tabs are one stop, and arrows go among them.
    page.open("overview")

    def press(key):
        ActionChains(page.driver).send_keys(key).perform()

    for key, tab in ((Keys.ARROW_RIGHT, "engines"), (Keys.END, "log"), (Keys.ARROW_RIGHT, "overview"), (Keys.ARROW_LEFT, "log"), (Keys.HOME, "overview")):
        press(key)
        assert page.run("return document.activeElement.id") == f"tab-{tab}"
        assert page.run(f"return document.getElementById('{tab}').hidden") is False

    # The task stream: from task to task, into one, and back.
    page.run("document.querySelector('#stream canvas').focus()")
    press(".")
    page.wait_for("return !document.getElementById('tip').hidden", "a task's words")
    first = page.text("tip")
    press(".")
    page.wait_for(f"return document.getElementById('tip').textContent !== {json.dumps(first)}", "the next task's words")
    press(Keys.ENTER)
    page.wait_for("return document.getElementById('details').open", "the record")
    press(Keys.ESCAPE)
    page.wait_for("return document.activeElement.localName === 'canvas'", "the stream to have the keyboard again")
    page.run("document.activeElement.blur()")

    # Columns are sorted by keyboard, and say how.
    page.open("engines")
    # By now, the dead one may have been forgotten.
    page.wait_for("return document.querySelectorAll('#engine-table tbody tr').length >= 3", "the engines")
    page.run("[...document.querySelectorAll('#engine-table th button')].find(one => one.textContent === 'Completed').focus()")
    press(Keys.ENTER)
    assert page.run("return document.activeElement.parentElement.ariaSort") == "descending"


def test_what_is_said_unasked_is_worth_it(clusters, page):  # noqa: F811
    page.run(
        """
        window.said = [];
        const watch = new MutationObserver((changes) => {
            for (const change of changes) {
                const region = (change.target.closest ?? (() => change.target.parentElement)).call(change.target, "*").closest("[aria-live], [role=status], [role=alert], [role=log]");
                if (region && region.checkVisibility()) window.said.push(`${region.id}: ${region.textContent}`);
            }
        });
        watch.observe(document.body, { subtree: true, childList: true, characterData: true });
        """
    )
    with clusters.client() as client:
        view = client.load_balanced_view()
        for _ in range(10):
            view.map_sync(work, range(20))
        page.wait_for("return window.ipcluster.stream.total >= 200", "the tasks")
        assert page.run("return window.said") == []
        clusters.kernels()[0].kill()
        clusters.kernels()[-1].kill()
        page.wait_for("return [...window.ipcluster.engines.values()].filter(one => one.phase === 'dead').length === 2", "their end")
    said = page.wait_for("return window.said.length && window.said", "the news")
    assert len(said) <= 2 and "died" in said[0], said


def test_who_wants_no_motion_has_little(clusters, page):  # noqa: F811
    ticks = (
        "const { stream } = window.ipcluster; let drawn = 0; const redraw = stream.redraw; stream.redraw = () => { drawn += 1; };"
        "for (let at = 0; at < 50; at += 1) window.ipcluster.tick(); stream.redraw = redraw; return drawn;"
    )
    assert page.run(ticks) == 50
    with emulated(page, prefers_reduced_motion="reduce"):
        assert page.run(ticks) <= 1
    moving = page.run(
        "return [...document.querySelectorAll('*')].filter(one => { const style = getComputedStyle(one);"
        " return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0; }).length"
    )
    assert moving == 0


# Every text that is seen with too little contrast to what is behind it, and every control whose edge is (WCAG 2.2 AA: 1.4.3
# and 1.4.11).
CONTRAST = """
    const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return { r, g, b, a }; };
    const part = (value) => { value /= 255; return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
    const luminance = ({ r, g, b }) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    const over = (top, below) => Object.fromEntries(["r", "g", "b"].map((c) => [c, top[c] * top.a + below[c] * (1 - top.a)]));
    const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
    const ground = (one) => {
        const layers = [];
        for (let at = one; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            layers.unshift(colour);
            if (colour.a === 1) break;
        }
        return layers.reduce((below, top) => ({ ...over(top, below), a: 1 }), { r: 255, g: 255, b: 255, a: 1 });
    };
    const found = [];
    let checked = 0;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement;
        const text = walker.currentNode.data.trim();
        if (!text || !one.checkVisibility() || one.closest(":disabled, noscript, script, .unseen")) continue;
        const style = getComputedStyle(one);
        const size = parseFloat(style.fontSize);
        const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        const below = ground(one);
        const got = ratio({ ...over(parse(style.color), below) }, below);
        checked += 1;
        if (got < (isLarge ? 3 : 4.5)) found.push(`${text.slice(0, 30)}: ${got.toFixed(2)}`);
    }
    for (const one of document.querySelectorAll("input, select, .bar button, progress, .parts")) {
        if (!one.checkVisibility() || one.disabled) continue;
        const style = getComputedStyle(one);
        const got = Math.max(ratio(parse(style.borderTopColor), ground(one.parentElement)), ratio(ground(one), ground(one.parentElement)));
        checked += 1;
        if (got < 3) found.push(`edge of ${one.id || one.name || one.className || one.localName}: ${got.toFixed(2)}`);
    }
    return [checked, found];
"""

# What is drawn: bars on both grounds of a row, words on bars, words on the ground.
DRAWN_CONTRAST = """
    const part = (value) => { value /= 255; return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
    const pen = document.createElement("canvas").getContext("2d");
    const luminance = (text) => {
        pen.fillStyle = text.trim();
        const hex = pen.fillStyle;
        const [r, g, b] = [1, 3, 5].map((at) => part(parseInt(hex.slice(at, at + 2), 16)));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
    const style = getComputedStyle(document.documentElement);
    const ground = ["--card", "--stripe"].map((name) => style.getPropertyValue(name));
    const { stream } = window.ipcluster;
    const bars = [...Array(11).keys()].map((n) => stream.colourFor(`contrast ${n}`));
    stream.by = "status";
    for (const status of ["ok", "failed", "aborted", "running"]) bars.push(stream.colourOf([0, 0, 0, 0, status]));
    stream.by = "name";
    const lines = ["--accent", "--good", "--bad", "--warn"].map((name) => style.getPropertyValue(name));
    const found = [];
    for (const colour of [...bars, ...lines]) for (const below of ground) if (ratio(colour, below) < 3) found.push([colour, below, ratio(colour, below)]);
    for (const colour of bars) if (Math.max(ratio(colour, "#000"), ratio(colour, "#fff")) < 4.5) found.push([colour, "its words"]);
    for (const below of ground) if (ratio(style.getPropertyValue("--faint"), below) < 4.5) found.push(["--faint", below]);
    return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(clusters, page, scheme):  # noqa: F811
    at_work(clusters, page)
    with emulated(page, prefers_color_scheme=scheme):
        page.run("delete document.documentElement.dataset.theme")
        assert page.run(DRAWN_CONTRAST) == []
        for tab in TABS:
            page.open(tab)
            if tab in ("engines", "tasks"):
                page.wait_for(rows_of("engine-table", 4) if tab == "engines" else rows_of("task-table", 37), "the rows")
            checked, found = page.run(CONTRAST)
            assert checked > 15 and not found, (tab, found)
            page.screenshot(f"{tab}-{scheme}")
        page.open("tasks")
        page.run("[...document.querySelectorAll('#task-table tr')].find(row => row.textContent.includes('failed')).querySelector('button').click()")
        page.wait_for("return document.getElementById('details').open", "the record")
        _, found = page.run(CONTRAST)
        assert not found, found
        page.screenshot(f"task-{scheme}")
        page.run("document.getElementById('details').close()")
        page.open("engines")
        page.wait_for(rows_of("engine-table", 4), "the engines")
        page.driver.find_element("css selector", "[aria-label='Restart engine 0']").click()
        _, found = page.run(CONTRAST)
        assert not found, found
        page.run("document.getElementById('confirm').close()")
        # The words under the pointer, and what is said when the controller is gone.
        page.open("overview")
        page.run("document.getElementById('notice').hidden = false; document.getElementById('notice').textContent = 'gone'")
        page.run("const { stream } = window.ipcluster; stream.showTip(stream.entries.at(-1), 100, 100)")
        _, found = page.run(CONTRAST)
        assert not found, found


HOSTILE = [
    "<img src=x onerror=\"window.hacked=1\"><b id='injected'>bold</b>",
    "</script><script>window.hacked=2</script>",
    "a very long label " * 30,
    "Größe 日本語 🎉 العربية",
    "abc\u202egnp.exe\x1b[2J\x07",
    "{{7*7}} ${8*8} `x`",
]


def shout(text):
    print(text)
    raise ValueError(text)


def test_labels_and_outputs_are_nothing_but_text(clusters, page):  # noqa: F811
    with clusters.client() as client:
        view = client.load_balanced_view()
        for label in HOSTILE:
            with view.temp_flags(label=label):
                view.apply_async(shout, label).wait(PATIENCE)
                view.apply_async(work, 3).wait(PATIENCE)
        client[0].execute(f"print({HOSTILE[0]!r})  # {HOSTILE[1]}", block=True)
        page.wait_for("return window.ipcluster.stream.entries.length === 13", "the tasks")
        page.driver.find_element("id", "colour").send_keys("label")
        for tab in TABS:
            page.open(tab)
            if tab == "tasks":
                page.wait_for(rows_of("task-table", 13), "the records")
                for button in page.driver.find_elements("css selector", "#task-table tbody button")[:12:2]:
                    page.run("arguments[0].click()", button)
                    page.wait_for("return document.getElementById('details').open", "the record")
                    page.run("document.getElementById('details').close()")
            page.screenshot(f"{tab}-hostile")
            with emulated(page, 360, 800):
                page.screenshot(f"{tab}-hostile-phone")
                assert page.run("return document.documentElement.scrollWidth <= innerWidth"), tab
        assert page.run("return [window.hacked, document.getElementById('injected')]") == [None, None]
        shown = {row[1] for row in page.rows("task-table")}
        assert HOSTILE[0] in shown and HOSTILE[3] in shown
        labels = page.run("return window.ipcluster.stream.entries.map(entry => entry[6]).filter(Boolean)")
        # Nothing that would put what stands behind it in another order, or that a terminal would obey.
        assert not any(mark in label for label in labels for mark in "\u202e\x1b\x07")
        assert max(map(len, labels)) <= 80

    # The same in the file of a report, and in a terminal.
    file = clusters.folder / "report.html"
    clusters.ok("report", str(file))
    shown = clusters.ok("tasks", "--last=40") + clusters.ok("top")
    assert "\x1b" not in shown and "\u202e" not in shown and "Größe 日本語" in shown
    page.driver.get(file.as_uri())
    wait_until(lambda: page.run("return window.ipcluster?.stream.drawn?.length === 13"), "the bars")
    assert page.run("return [window.hacked, document.getElementById('injected')]") == [None, None]
    assert not nameless(page)
    page.screenshot("report-hostile")


@pytest.mark.parametrize("width", [320, 768, 1920])
def test_it_fits_every_screen(clusters, page, width):  # noqa: F811
    at_work(clusters, page)
    with emulated(page, width, 1000):
        for tab in TABS:
            page.open(tab)
            if tab in ("engines", "tasks"):
                page.wait_for(rows_of("engine-table", 4) if tab == "engines" else rows_of("task-table", 37), "the rows")
            # Tables scroll within their frames, the page does not.
            assert page.run("return document.documentElement.scrollWidth <= innerWidth"), tab
            time.sleep(0.3)  # Drawn with the next frames; only the picture depends on it.
            page.screenshot(f"{tab}-{width}")


if __name__ == "__main__":
    os._exit(pytest.main([__file__, "-q"]))
