"""The page in a browser: what one points at, clicks, folds, searches and types."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from skipway import Chain, Dense, Parallel, Shortcut, Skip, dense, every, relu, zoo
from skipway.study.lengths import places, spread

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def crossing():
    return Chain(
        stem=Dense(8, 16, relu), a=Dense(16, 16, relu), b=Dense(16, 16, relu), head=Dense(16, 2),
        wiring=[Shortcut("stem", "b"), Shortcut("input", "a", path="project", name="wide")],
    )  # fmt: skip


# -- without a browser -------------------------------------------------------------------------------------------------


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_a_page_holds_all_it_needs(tmp_path):
    crossing().draw(tmp_path / "net.html")
    text = (tmp_path / "net.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "<!--" not in text


def test_the_data_of_a_page_is_the_plan(tmp_path):
    net = crossing()
    net.draw(tmp_path / "net.html")
    data = data_of((tmp_path / "net.html").read_text(encoding="utf-8"))
    assert [row[1] for row in data["rows"]] == ["input", "stem", "a", "b", "head"]
    assert [row[3] for row in data["rows"]] == ["(N, 8)", "(N, 16)", "(N, 16)", "(N, 16)", "(N, 2)"]
    assert sum(row[4] for row in data["rows"]) + sum(arc[5] for arc in data["arcs"]) == sum(
        p.numel() for p in net.parameters()
    )
    assert [(a[0], a[1], a[7], data["words"][a[4]]) for a in data["arcs"]] == [
        (0, 2, "wide", "add · project 8→16"),
        (1, 3, "stem->b", "add"),
    ]


def test_what_is_written_cannot_end_the_script(tmp_path):
    net = Chain({"</script><b>": Dense(4, 4), "b": Dense(4, 4)}, wiring=[Shortcut("</script><b>", "b")])
    net.draw(tmp_path / "net.html", title="</title>")
    text = (tmp_path / "net.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert text.count("</title>") == 1
    assert data_of(text)["rows"][1][1] == "</script><b>"


def test_a_page_of_a_thousand_layers_is_small(tmp_path):
    net = Chain(*[Dense(4, 4) for _ in range(1000)], wiring=every(2))
    net.draw(tmp_path / "net.html")
    assert (tmp_path / "net.html").stat().st_size < 200_000


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser to test in")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no chromium is installed: no browser to test in")
        made = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def open_(browser, tmp_path):
    """Open the page of a net; at the end, nothing may have been said on the console, and nothing asked of a network."""
    said, asked, pages = [], [], []

    def call(net, width=1280, height=900, **options):
        net.draw(tmp_path / "net.html", **options)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "net.html").as_uri())
        page.wait_for_selector("#arcs")
        pages.append(page)
        return page

    yield call
    for page in pages:
        page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def row(page, name):
    return page.locator(".row", has=page.locator(f".name:text-is('{name}')")).first


def test_pointing_at_a_layer_tells_of_it(open_):
    page = open_(crossing())
    row(page, "a").hover()
    told = page.inner_text("#detail")
    for word in ("a Dense relu", "(N, 16)", "272 parameters", "test_page.py:", "1 shortcut ends here"):
        assert word in told
    assert page.locator(".arc.near").count() == 1


def test_pointing_at_a_shortcut_tells_of_it(open_):
    page = open_(crossing())
    box = page.eval_on_selector("path.hit", "arc => arc.getBoundingClientRect().toJSON()")  # its stroke is around it
    page.mouse.move(box["right"], (box["top"] + box["bottom"]) / 2)
    told = page.inner_text("#detail")
    for word in ("wide: add · project 8→16", "input (N, 8) → a (N, 16)", "128 parameters", "test_page.py:"):
        assert word in told


def test_a_click_shows_the_paths_through_a_shortcut(open_):
    """Three layers of paths: 233 over sliding(2) and 12 layers is the same count, Fibonacci."""
    from skipway import sliding

    page = open_(Chain(*[Dense(4, 4) for _ in range(12)], wiring=sliding(2)))
    chip = page.locator(".chip").nth(5)  # from value 5 to value 7: 8 paths lead there, 8 lead on
    chip.click()
    page.mouse.move(0, 0)
    assert "64 of 233 paths" in page.inner_text("#detail .paths")
    assert page.locator(".arc.on").count() == 1
    off = page.eval_on_selector_all(".row.off", "rows => rows.map(r => r.dataset.row)")
    assert off == ["6", "7"]
    chip.click()
    assert page.locator(".arc.on, .row.off").count() == 0


def test_a_shortcut_of_the_branch_goes_around_the_merge_before_it(open_):
    net = Chain(
        a=Dense(4, 4), b=Dense(4, 4), c=Dense(4, 4),
        wiring=[Shortcut("input", "a"), Shortcut("a", "c", tap="branch"), Shortcut("a", "b")],
    )  # fmt: skip
    page = open_(net)
    page.locator(".chip", has_text="branch").click()
    page.mouse.move(0, 0)
    # by hand: a's value 2 ways, b 4, c 4 + 1 by the branch of a
    assert "1 of 5 paths" in page.inner_text("#detail .paths")
    assert page.locator(".arc.off").count() == 2


def test_repeats_fold_and_unfold(open_):
    page = open_(Chain(Dense(4, 4), *[Skip(Dense(4, 4), Dense(4, 4)) for _ in range(16)], Dense(4, 2)))
    rows, arcs = page.locator(".row"), page.locator("path.arc")
    assert "×16" in page.inner_text(".row.fold")
    assert (rows.count(), arcs.count()) == (7, 1)
    page.locator(".row.fold .turn").click()
    assert (rows.count(), arcs.count()) == (52, 16)
    page.locator(".row.fold .turn").click()
    assert (rows.count(), arcs.count()) == (7, 1)
    page.locator(".row.title .turn").click()
    assert rows.count() == 5
    page.click("#unfold")
    assert (rows.count(), arcs.count()) == (52, 16)
    page.click("#fold")
    assert rows.count() == 5


def test_search_finds_what_is_folded_away(open_):
    page = open_(Chain(Dense(4, 4), *[Skip(Dense(4, 4), Dense(4, 4)) for _ in range(16)], head=Dense(4, 2)))
    page.keyboard.press("/")
    page.keyboard.type("9.1")
    assert page.inner_text("#found") == "1 found"
    page.keyboard.press("Enter")
    assert page.inner_text("#found") == "1 of 1"
    assert "9.1 Dense" in page.inner_text("#detail")
    assert page.locator(".row.current").count() == 1
    page.fill("#search", "nothing like it")
    assert page.inner_text("#found") == "nothing found"
    page.keyboard.press("Escape")
    assert page.input_value("#search") == ""


def test_all_of_it_works_by_keyboard(open_):
    page = open_(crossing())
    page.locator(".row").first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.row") == "2"
    assert "a Dense relu" in page.inner_text("#detail")
    page.keyboard.press("Enter")
    assert page.locator(".arc.on").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".arc.on").count() == 0
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.row") == "4"
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.row") == "0"
    assert page.evaluate("document.querySelectorAll('.row[tabindex=\"0\"]').length") == 1


def test_folding_by_keyboard_keeps_the_focus(open_):
    page = open_(Chain(Dense(4, 4), *[Skip(Dense(4, 4)) for _ in range(8)], Dense(4, 2)))
    page.locator(".row.fold").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".row.fold").get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.classList.contains('fold')")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".row.fold").get_attribute("aria-expanded") == "false"


@pytest.mark.parametrize("name", ["resnet18", "unet"])
def test_a_phone_shows_all_without_scrolling_sideways(open_, name):
    page = open_(zoo.make(name), width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator(".row").nth(3).bounding_box()
    assert box["height"] >= 40  # room for a finger


def test_rows_do_not_run_into_each_other(open_):
    for width in (1280, 360):
        page = open_(zoo.make("resnet18"), width=width)
        tops = page.eval_on_selector_all(".row", "rows => rows.map(r => [r.offsetTop, r.offsetTop + r.offsetHeight])")
        assert all(a[1] <= b[0] + 1 for a, b in itertools.pairwise(tops))
        inside = page.eval_on_selector_all(
            ".line > *",
            "cells => cells.filter(c => c.textContent && (c.getBoundingClientRect().bottom > "
            "c.closest('.row').getBoundingClientRect().bottom + 1)).length",
        )
        assert inside == 0


@pytest.mark.parametrize(("theme", "scheme", "dark"), [
    ("auto", "dark", True), ("auto", "light", False), ("light", "dark", False), ("dark", "light", True),
])  # fmt: skip
def test_light_and_dark(browser, tmp_path, theme, scheme, dark):
    crossing().draw(tmp_path / "net.html", theme=theme)
    page = browser.new_page(color_scheme=scheme)
    page.goto((tmp_path / "net.html").as_uri())
    paper = "getComputedStyle(document.body).backgroundColor"
    black, white = "rgb(18, 23, 29)", "rgb(255, 255, 255)"
    assert page.evaluate(paper) == (black if dark else white)
    page.click("#theme")
    assert page.evaluate(paper) == (white if dark else black)
    page.close()


def test_thousands_of_shortcuts(open_):
    page = open_(Chain(*[Dense(4, 4) for _ in range(60)], wiring=dense()))
    assert page.locator("path.arc").count() == 60 * 59 // 2
    page.locator(".row").nth(30).hover()
    # 29 end there, from all values but the one before; 29 start there, to all but the next
    assert page.locator(".arc.near").count() == 58


def test_the_svg_shows_in_a_browser_without_a_word_outside(browser, tmp_path):
    """The widths that labels are placed by are no smaller than those a browser draws."""
    net = zoo.make("resnet18")
    net.draw(tmp_path / "net.svg")
    page = browser.new_page()
    page.goto((tmp_path / "net.svg").as_uri())
    boxes = page.eval_on_selector_all(
        "text",
        "texts => texts.map(t => { const b = t.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; })",
    )
    assert len(boxes) > 50
    # glyph boxes are taller than their letters: the lines of a column are looked at without their rims
    thin = [(x0 + 2, y0 + 2.5, x1 - 2, y1 - 2.5) for x0, y0, x1, y1 in boxes]
    for i, (a0, b0, a1, b1) in enumerate(thin):
        for c0, d0, c1, d1 in thin[:i]:
            assert not (a0 < c1 and c0 < a1 and b0 < d1 and d0 < b1)
    page.close()


# -- branches ----------------------------------------------------------------------------------------------------------


def mixed():
    """Branches with a shortcut and branches of their own, in a chain with a shortcut around them."""
    deep = Parallel(Dense(4, 4), Chain(Dense(4, 4, relu), low=Dense(4, 4)))
    return Chain(
        stem=Dense(4, 4), mix=Parallel(Dense(4, 4), Skip(first=Dense(4, 4), deep=deep), Chain(), merge="add"),
        head=Dense(4, 2), wiring=[Shortcut("stem", "mix")],
    )  # fmt: skip


def test_every_branch_and_its_layers_are_rows_of_a_page(tmp_path):
    net = mixed()
    net.draw(tmp_path / "net.html")
    rows = data_of((tmp_path / "net.html").read_text(encoding="utf-8"))["rows"]
    assert [r[7] for r in rows] == [
        "input", "stem", "mix", "mix.0", "mix.1", "mix.1.first", "mix.1.deep", "mix.1.deep.0", "mix.1.deep.1",
        "mix.1.deep.1.0", "mix.1.deep.1.low", "mix.1.deep", "mix.2", "mix", "head",
    ]  # fmt: skip
    kinds = [r[5] for r in rows]
    assert [i for i, kind in enumerate(kinds) if kind == "fork"] == [2, 6]
    assert [i for i, kind in enumerate(kinds) if kind == "branch"] == [4, 8]
    assert {i: r[11] for i, r in enumerate(rows) if kinds[i] == "meet"} == {11: [7, 10], 13: [3, 11, 12]}
    assert sum(r[4] for r, kind in zip(rows, kinds, strict=True) if kind not in ("fork", "branch", "title")) == sum(
        p.numel() for p in net.parameters()
    )


def test_pointing_at_a_layer_in_a_branch_tells_of_it(open_):
    page = open_(mixed())
    row(page, "low").hover()
    told = page.inner_text("#detail")
    for word in ("mix.1.deep.1.low Dense", "(N, 4)", "20 parameters", "test_page.py:"):
        assert word in told
    page.locator(".row.title", has_text="mix").first.hover()
    assert "3 branches, add (N, 4)" in page.inner_text("#detail")


def off_rows(page):
    return page.eval_on_selector_all(".row.off", "rows => rows.map(r => Number(r.dataset.row))")


def test_paths_through_a_layer_of_a_branch(open_):
    """By hand: branch 1 is 1 + 2 ways, so the three of them 5, and with the shortcut around them 6."""
    assert sum(spread(places(mixed()), "layers").counts()) == 6
    page = open_(mixed())
    row(page, "low").click()
    page.mouse.move(0, 0)
    assert "1 of 6 paths" in page.inner_text("#detail .paths")
    assert off_rows(page) == [3, 7, 12]  # the other branches, at both depths
    assert page.locator(".arc.off").count() == 2  # both shortcuts go around it
    assert page.locator(".row.chosen").count() == 1
    row(page, "low").click()
    assert page.locator(".row.off, .arc.off, .row.chosen").count() == 0
    page.locator(".row[data-row='11'] .chip").click()  # the shortcut of branch 1
    page.mouse.move(0, 0)
    assert "mix.1: input->output: add" in page.inner_text("#detail")
    assert "1 of 6 paths" in page.inner_text("#detail .paths")
    assert off_rows(page) == [3, 5, 7, 8, 9, 10, 11, 12]


def test_branches_fold_and_are_searched(open_):
    layers = [Skip(Parallel(*[Skip(Dense(4, 4), Dense(4, 4)) for _ in range(32)])) for _ in range(3)]
    page = open_(Chain(Dense(4, 4), *layers, head=Dense(4, 2)))
    rows, arcs = page.locator(".row"), page.locator("path.arc")
    assert [text.split()[0] for text in page.locator(".row.fold .name b").all_inner_texts()] == ["×3", "×32"]
    folded = rows.count()
    assert arcs.count() == 2
    page.locator(".row.fold .turn").nth(1).click()
    assert (rows.count(), arcs.count()) == (folded + 31 * 3, 2 + 31)
    page.locator(".row.fold .turn").nth(1).click()
    page.mouse.move(0, 0)
    page.fill("#search", "2.0.17.1")
    page.keyboard.press("Enter")
    assert "2.0.17.1 Dense" in page.inner_text("#detail")
    assert page.locator(".row.current").count() == 1


def test_branches_fold_by_keyboard(open_):
    page = open_(mixed())
    title = page.locator(".row.title[data-row='2']")
    title.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".row").count() == 4
    assert "6 layers" in title.inner_text()
    assert page.locator("path.arc").count() == 1  # the one around them stays
    page.keyboard.press("ArrowRight")
    assert page.locator(".row").count() == 15
    page.locator(".row[data-row='10']").focus()
    page.keyboard.press("Space")
    assert "1 of 6 paths" in page.inner_text("#detail .paths")
    page.keyboard.press("Escape")
    assert page.locator(".row.off").count() == 0


def nest(levels):
    return Parallel(Dense(4, 4), Skip(nest(levels - 1)), merge="mean") if levels else Dense(4, 4)


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("make", [mixed, lambda: Chain(Dense(4, 4), nest(5))], ids=["mixed", "five levels"])
def test_the_lines_of_branches_stay_beside_the_words(open_, make, width):
    page = open_(make(), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    edge = "(all, side) => all.map(x => x.getBoundingClientRect()[side])"
    left = min(page.eval_on_selector_all("#arcs .spine, #arcs .mark", edge, "left"))
    right = max(page.eval_on_selector_all(".line > *", edge, "right"))
    assert left >= right - 1
    assert all(page.eval_on_selector_all(".row b", "all => all.map(x => x.getBoundingClientRect().width > 5)"))
