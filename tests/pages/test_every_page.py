"""Rules that every page of the built book obeys, in a browser and in both themes."""

import pytest

#: The pages of an iPhone and of a small Android phone are this wide.
PHONE = 390
HEAVIEST = 3e6  # bytes that a chapter may load
#: Loaded on demand by those who start the detector.
ON_DEMAND = "_static/try/detector"


def settle(page) -> None:
    """Scroll to the end and back, so that what loads in view has loaded; wait for equations."""
    page.evaluate("""async () => {
        for (let y = 0; y < document.body.scrollHeight; y += 2000) {
            window.scrollTo(0, y);
            await new Promise(requestAnimationFrame);
        }
        window.scrollTo(0, 0);
        await window.MathJax?.startup?.promise;
        await document.fonts.ready;
    }""")
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_is_accessible_and_loads_without_an_error(page, site, every_page, theme, axe):
    page.emulate_media(color_scheme=theme)
    page.goto(site.url + every_page)
    settle(page)
    assert page.locator("html").get_attribute("data-theme") == theme
    words = axe(page)
    assert not words, words


def test_checker_sees_a_picture_without_words(page, site, axe):
    page.goto(site.url + "book/notation.html")
    page.evaluate("document.querySelector('main').append(new Image(9, 9))")
    assert "image-alt" in axe(page)


def overflow(page) -> int:
    """By how many pixels the page is wider than the window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def test_page_does_not_scroll_sideways_on_a_phone(page, site, every_page):
    page.set_viewport_size({"width": PHONE, "height": 844})
    page.goto(site.url + every_page)
    settle(page)
    assert overflow(page) <= 0


def test_overflow_is_seen(page, site):
    page.set_viewport_size({"width": PHONE, "height": 844})
    page.goto(site.url + "book/notation.html")
    page.evaluate("document.querySelector('article').style.width = '500px'")
    assert overflow(page) > 0


def test_chapter_is_light_enough(page, site, chapter):
    sizes = {}

    def note(request) -> None:
        if request.url.startswith(site.url) and ON_DEMAND not in request.url:
            sizes[request.url] = request.sizes()["responseBodySize"]

    page.on("requestfinished", note)
    page.goto(site.url + chapter)
    settle(page)
    assert 1e5 < sum(sizes.values()) < HEAVIEST, sorted(sizes.items(), key=lambda item: -item[1])


def test_page_opens_as_a_file(page, site):
    page.goto((site.folder / "book" / "05-matching.html").as_uri())
    settle(page)
    assert page.locator("mjx-container").count() > 0
    page.goto((site.folder / "search.html").as_uri() + "?q=prior")
    page.wait_for_selector("#search-results li")


def test_search_finds_a_chapter(page, site):
    page.goto(site.url + "search.html?q=supervision+landscape")
    page.wait_for_selector("#search-results a[href*='03-priors.html']")
