"""Rules that every page of the built book obeys, in a browser and in both themes."""

import pytest

PHONE, TABLET = 390, 768  # pixels: common widths
#: It holds most elements of a page; they are coloured alike on all, so they are checked once.
CODE = ".highlight pre"
HEAVIEST = 3e6  # bytes that a chapter may load
#: Loaded on demand by those who start the detector.
ON_DEMAND = ("try/detector", "try/network", "try/data/weights")


def settle(page) -> None:
    """Scroll to the end and back, so that what loads in view has loaded; wait for equations."""
    page.evaluate("""async () => {
        for (let y = 0; y < document.body.scrollHeight; y += 2000) {
            window.scrollTo(0, y);
            await new Promise(requestAnimationFrame);
        }
        window.scrollTo(0, 0);
        while (document.querySelector(".math") && !window.MathJax?.startup?.promise) {
            await new Promise(requestAnimationFrame);
        }
        await window.MathJax?.startup?.promise;
        await document.fonts.ready;
    }""")
    page.wait_for_load_state("networkidle")


def show_in(page, theme: str) -> None:
    """Change to the theme, and bring colours that fade to their end."""
    page.emulate_media(color_scheme=theme)
    if page.locator("html[data-theme]").count():  # the 404 page has no script that sets it
        page.wait_for_selector(f"html[data-theme={theme}]")
    # Waiting for a fade may take for ever: that of an element out of sight can stand still.
    page.evaluate("""async () => {
        await new Promise(requestAnimationFrame);
        for (const each of document.getAnimations()) {
            if (each instanceof CSSTransition) each.finish();
        }
    }""")


def test_page_is_accessible_and_fits_small_screens(page, site, every_page, axe):
    page.set_viewport_size({"width": PHONE, "height": 844})
    page.goto(site.url + every_page)
    settle(page)
    found = {}
    for width in (PHONE, TABLET):
        page.set_viewport_size({"width": width, "height": 844})
        if (wide := overflow(page)) > 0:
            found[f"at {width} pixels"] = f"scrolls sideways by {wide} pixels"
    page.set_viewport_size({"width": 1400, "height": 900})
    for theme in ("light", "dark"):
        show_in(page, theme)
        found[theme] = axe(page, exclude=CODE)
    words = "\n".join(f"{where}: {what}" for where, what in found.items() if what)
    assert not words, words


def test_colours_of_code_can_be_read(page, site, axe):
    page.goto(site.url + "book/10-training.html")
    for theme in ("light", "dark"):
        show_in(page, theme)
        assert not (words := axe(page)), words


def test_theme_follows_the_system(page, site):
    page.goto(site.url + "book/notation.html")
    for theme in ("dark", "light"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_selector(f"html[data-theme={theme}]")


def test_checker_sees_a_picture_without_words(page, site, axe):
    page.goto(site.url + "book/notation.html")
    page.evaluate("document.querySelector('main').append(new Image(9, 9))")
    assert "image-alt" in axe(page)


def overflow(page) -> int:
    """By how many pixels the page is wider than the window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def test_overflow_is_seen(page, site):
    page.set_viewport_size({"width": PHONE, "height": 844})
    page.goto(site.url + "book/notation.html")
    page.evaluate("document.querySelector('article').style.width = '500px'")
    assert overflow(page) > 0


def test_chapter_is_light_enough(page, site, chapter):
    sizes = {}

    def note(request) -> None:
        if request.url.startswith(site.url) and not any(part in request.url for part in ON_DEMAND):
            sizes[request.url] = request.sizes()["responseBodySize"]

    page.on("requestfinished", note)
    page.goto(site.url + chapter)
    settle(page)
    assert 1e5 < sum(sizes.values()) < HEAVIEST, sorted(sizes.items(), key=lambda item: -item[1])


def test_code_takes_its_room_before_it_is_set(page, site):
    page.set_viewport_size({"width": PHONE, "height": 844})
    page.goto(site.url + "book/09-evaluation.html")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    sizes = """() => [...document.querySelectorAll(".lines")].map(
        each => [each.parentElement.scrollWidth, each.offsetHeight])"""
    before = page.evaluate(sizes)
    page.add_style_tag(content=".lines { content-visibility: visible !important }")
    after = page.evaluate(sizes)
    assert len(after) > 20
    assert after == [[pytest.approx(wide, abs=1), high] for wide, high in before]


def test_small_screens_wait_for_equations(page, site):
    page.set_viewport_size({"width": PHONE, "height": 844})
    page.goto(site.url + "book/02-boxes.html")
    page.wait_for_load_state("networkidle")
    assert page.locator("script[src*='mathjax/']").count() == 0
    page.mouse.wheel(0, 100)
    page.wait_for_selector("mjx-container", state="attached")
    page.set_viewport_size({"width": 1400, "height": 844})
    page.reload()
    page.wait_for_selector("mjx-container", state="attached")


def test_dark_pages_are_dark_from_the_start(page, site):
    page.emulate_media(color_scheme="dark")
    page.route("**/pydata-sphinx-theme.js*", lambda route: route.fulfill(body=""))
    page.goto(site.url + "book/notation.html")
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_page_opens_as_a_file(page, site, problems):
    page.goto((site.folder / "book" / "05-matching.html").as_uri())
    settle(page)
    assert page.locator("mjx-container").count() > 0
    # The search finds pages, but a browser lets no file read others for its excerpts.
    problems.expected += ["Failed to fetch", "net::ERR_FAILED", "blocked by CORS policy"]
    page.goto((site.folder / "search.html").as_uri() + "?q=prior")
    page.wait_for_selector("#search-results li")


def test_search_finds_a_chapter(page, site):
    page.goto(site.url + "search.html?q=supervision+landscape")
    page.wait_for_selector("#search-results a[href*='03-priors.html']")
