"""The tools that finish the pages: what they leave out, add and draw."""

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import cards
import chapter_top
import citation
import docstrings
import light_assets
import matplotlib.pyplot as plt
import memory
import nbformat
import number_columns
import page_head
import pytest
import slim_pages
import tinycss2
import yaml
from docutils import nodes
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from PIL import Image
from pygments.styles import get_style_by_name
from pygments.token import STANDARD_TYPES
from sphinx import addnodes

from ssd_annotated.nms import Detections

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(ROOT.glob("book/text/*.md"))
BASE = "https://ada.github.io/seen-once/"


# --- Slim pages -------------------------------------------------------------------------------


CODE = (
    '<div class="highlight-python notranslate"><div class="highlight"><pre><span></span>'
    '<span class="n">a</span> <span class="o">&lt;</span> <span class="n">b</span>'
    '<span class="p">,</span>\n\t<span class="n">c</span>\n</pre></div></div>'
)


@pytest.fixture
def folder(tmp_path):
    """The folder of a page with one picture, 30 × 20 pixels."""
    (tmp_path / "_images").mkdir()
    (tmp_path / "book").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "_images" / "x.webp")
    return tmp_path / "book"


@pytest.mark.parametrize(
    "tag",
    [
        '<script defer src="../_static/scripts/fontawesome.js?digest=5"></script>',
        '<script async="async" src="../_static/sphinx-thebe.js?v=1"></script>',
        '<script>const THEBE_JS_URL = "https://example.org"; const thebe_selector = ""</script>',
        '<link rel="stylesheet" type="text/css" href="../_static/sphinx-thebe.css?v=4" />',
        '<script src="../searchindex.js"></script>',
        '<link rel="preload" as="script" href="../_static/scripts/bootstrap.js?digest=5" />',
        '<script>window.MathJax = {"loader": {"load": []}}</script>',
        '<script defer="defer" src="../_static/mathjax/tex-chtml.js?v=2"></script>',
    ],
)
def test_unused_parts_are_left_out(tag, folder):
    assert slim_pages.slim(f"<p>a</p>\n{tag}<p>b</p>", folder, searches=False) == "<p>a</p><p>b</p>"


def test_page_of_the_search_keeps_what_it_needs(folder):
    html = '<script src="_static/searchtools.js"></script><script src="searchindex.js"></script>'
    assert slim_pages.slim(html, folder, searches=True) == html


@pytest.mark.parametrize(
    ("tag", "waits"),
    [
        ('<script src="../_static/doctools.js?v=9"></script>', True),
        ('<script data-x="1" src="../_static/design-tabs.js"></script>', True),
        ('<script src="../_static/documentation_options.js?v=9"></script>', False),
        ("<script>DOCUMENTATION_OPTIONS.pagename = 'x';</script>", False),
        ('<script defer="defer" src="../_static/try/base.js"></script>', False),
    ],
)
def test_scripts_wait_unless_another_needs_them(tag, waits, folder):
    expected = tag.replace("<script ", "<script defer ") if waits else tag
    assert slim_pages.slim(tag, folder, searches=False) == expected


def test_pictures_get_their_size_and_load_when_they_come_near(folder):
    html = slim_pages.slim('<img alt="its width" src="../_images/x.webp" />' * 4, folder, False)
    assert html.count('width="30" height="20"') == 4
    assert html.count('loading="lazy"') == 4 - slim_pages.FIRST
    assert html.endswith('loading="lazy" />')
    first = html.index('fetchpriority="high"')
    assert html.count("<img", 0, first) == slim_pages.FIRST  # the first that is no logo


def test_picture_with_a_size_keeps_it(folder):
    html = '<img alt="x" src="../_images/x.webp" style="width: 7px" />'
    assert slim_pages.slim(html, folder, searches=False) == html


def test_size_in_a_style_becomes_the_room_that_the_picture_takes(folder):
    html = '<img alt="x" src="../_images/x.webp" style="width: 7px; height: 5px;" />'
    slimmed = slim_pages.slim(html, folder, searches=False)
    assert slimmed == '<img alt="x" src="../_images/x.webp" width="7" height="5" />'


def test_the_name_of_a_module_is_broken_after_its_dots(folder):
    html = slim_pages.slim("<h1>Source code for a_b.c.d</h1><p>a.b</p>", folder, searches=False)
    assert html == "<h1>Source code for a_b.<wbr>c.<wbr>d</h1><p>a.b</p>"


def test_slim_page_stays_as_it_is(folder):
    html = '<img alt="x" src="../_images/x.webp" />' * 5 + '<script src="../_static/a.js"></script>'
    html += (
        CODE + '<script>document.documentElement.dataset.theme = localStorage.x || "auto";</script>'
    )
    once = slim_pages.slim(html, folder, searches=False)
    assert slim_pages.slim(once, folder, searches=False) == once


def test_code_has_fewer_elements_and_a_size(folder):
    html = slim_pages.slim(CODE, folder, searches=False)
    assert html == (
        '<div class="highlight-python notranslate"><div class="highlight"><pre>'
        '<span class="lines" style="--lines: 2; --columns: 6"><span></span>'
        'a <span class="o">&lt;</span> b,\n\tc\n</span></pre></div></div>'
    )
    assert slim_pages.TAG.sub("", html) == slim_pages.TAG.sub("", CODE)


@pytest.mark.parametrize("name", ["a11y-high-contrast-light", "a11y-high-contrast-dark"])
def test_only_words_without_a_colour_of_their_own_lose_their_element(name):
    colours = {STANDARD_TYPES[kind]: look["color"] for kind, look in get_style_by_name(name)}
    found = re.search(r"\(\?:([a-z|]+)\)", slim_pages.UNCOLOURED.pattern)
    for short in found[1].split("|"):
        assert colours[short] == colours[""]


def test_theme_is_known_before_the_page_is_drawn(folder):
    html = '<script>document.documentElement.dataset.theme = localStorage.x || "auto";</script>'
    slimmed = slim_pages.slim(html, folder, searches=False)
    assert "prefers-color-scheme" in slimmed
    assert "localStorage" not in slimmed


def test_page_with_an_equation_keeps_mathjax(folder):
    html = '<span class="math">x</span><script defer src="../_static/mathjax/a.js"></script>'
    assert slim_pages.slim(html, folder, searches=False) == html


def test_figures_become_webp_with_the_same_pixels(tmp_path):
    picture = Image.effect_noise((20, 10), 50).convert("P")
    picture.save(tmp_path / "x.png")
    slim_pages.smaller_pictures(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.webp"]
    with Image.open(tmp_path / "x.webp") as after:
        assert after.convert("RGB").tobytes() == picture.convert("RGB").tobytes()


# --- What all pages load ----------------------------------------------------------------------


@pytest.fixture
def static(tmp_path_factory):
    """Stylesheets and scripts as the theme lays them out, with a font of three icons."""
    tmp_path = tmp_path_factory.mktemp("built") / "_static"
    icons = tmp_path / f"{light_assets.ICONS}.ttf"
    icons.parent.mkdir(parents=True)
    draw = FontBuilder(1000, isTTF=True)
    draw.setupGlyphOrder([".notdef", "sun", "moon", "cat"])
    draw.setupCharacterMap({0xF185: "sun", 0xF186: "moon", 0xF6BE: "cat"})
    empty = TTGlyphPen(None).glyph()
    draw.setupGlyf(dict.fromkeys([".notdef", "sun", "moon", "cat"], empty))
    draw.setupHorizontalMetrics(dict.fromkeys([".notdef", "sun", "moon", "cat"], (500, 0)))
    draw.setupHorizontalHeader()
    draw.setupNameTable({"familyName": "Font of the theme", "styleName": "Solid"})
    draw.setupOS2()
    draw.setupPost()
    draw.save(icons)
    (tmp_path / "styles").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "basic.css").write_text("p { x: url(file.png) }")
    (tmp_path / "styles" / "theme.css").write_text(
        f'@import "../basic.css";\n@font-face{{src:url(../{light_assets.ICONS}.woff2)'
        ' format("woff2"),url(../x.ttf)}\n.fa-sun:before{content:"\\f185"}'
    )
    (tmp_path / "own.css").write_text(".gone{a:b}.fa-cat:before{content:'\\f6be'}")
    (tmp_path / "mathjax").mkdir()
    for name in ("startup", *light_assets.MATHJAX):
        file = tmp_path / "mathjax" / f"{name}.js"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"// {name}")
    return tmp_path


def kept(style, *used):
    """What is left of a stylesheet, without spaces."""
    rules = tinycss2.parse_stylesheet(style, skip_whitespace=True)
    return re.sub(r"\s", "", light_assets.purged(rules, set(used)))


@pytest.mark.parametrize(
    ("style", "left"),
    [
        ("p{a:b}", "p{a:b}"),
        (".in{a:b}", ".in{a:b}"),
        (".out{a:b}", ""),
        ("#out .in{a:b}", ""),
        (".in,p .out{a:b}", ".in{a:b}"),
        (".in:not(.out){a:b}", ".in:not(.out){a:b}"),
        ("@media print{.out{a:b}.in{a:b}}", "@mediaprint{.in{a:b}}"),
        ("@media print{.out{a:b}}", ""),
        ("@keyframes out{from{a:b}}", "@keyframesout{from{a:b}}"),
        ("/*! MIT */ /* note */", "/*!MIT*/"),
        ('[class^="out"]{a:b}', '[class^="out"]{a:b}'),
    ],
)
def test_rules_that_can_meet_no_element_are_left_out(style, left):
    assert kept(style, "in") == left


def test_classes_that_scripts_set_count_as_used():
    used = light_assets.words(["e.classList.add('is-open')", "tooltip_x"])
    assert {"is-open", "tooltip_x"} <= used


def test_stylesheets_become_one_with_their_addresses(static):
    style = light_assets.joined(["styles/theme.css", "own.css"], static)
    assert "@import" not in style
    assert style.index("url(file.png)") < style.index(".fa-sun") < style.index(".gone")
    assert "url(x.ttf)" in style


def test_icons_travel_in_the_stylesheet_with_a_name_of_their_own(static):
    style = light_assets.stylesheet(["styles/theme.css", "own.css"], static, {"fa-sun"})
    assert "woff2" not in style
    data = base64.b64decode(re.search(r"font/woff;base64,([^)]+)", style)[1])
    font = TTFont(io.BytesIO(data))
    assert set(font.getBestCmap()) == {0xF185}
    assert {font["name"].getDebugName(n) for n in (1, 4, 6)} == {"BookIcons"}


def test_mathjax_starts_after_its_parts(static):
    script = light_assets.mathjax(static / "mathjax")
    assert script.startswith("// startup")
    assert script.index("// input/tex") < script.index("preLoad(")


def test_pages_share_their_files(static):
    (static / "try").mkdir()
    (static / "try" / "try.css").write_text(".try-put-together{a:b}")
    page = (
        '<link href="../_static/styles/theme.css?d=1" rel="stylesheet" />\n<title>T</title>'
        '<link rel="stylesheet" href="../_static/own.css" />'
        '<link rel="stylesheet" href="../_static/try/try.css" />'
        '<script defer src="../_static/mathjax/tex-chtml.js?v=2"></script><p class="fa-sun">'
    )
    pages = slim_pages.share(static.parent, {Path("a.html"): page, Path("b.html"): "<p>"})
    assert pages[Path("b.html")] == "<p>"
    html = pages[Path("a.html")]
    assert html.count("stylesheet") == 1
    style, loader, script = re.findall(r'\.\./_static/([^"]+)"', html)
    assert loader == "equations.js"
    assert re.fullmatch(r"book\.css\?v=[0-9a-f]{8}", style)
    assert re.fullmatch(r"mathjax/book\.js\?v=[0-9a-f]{8}", script)
    joined = (static / "book.css").read_text()
    assert ".gone" not in joined
    assert ".try-put-together" in joined
    again = slim_pages.share(static.parent, pages)
    assert again == pages


def test_styles_are_joined_after_the_theme_has_written_its_own():
    options = {}
    slim_pages.setup(SimpleNamespace(connect=lambda *_, **given: options.update(given)))
    assert options["priority"] > 500  # Sphinx's default, and the theme's


# --- The head ---------------------------------------------------------------------------------


def test_description_ends_with_a_sentence_or_says_that_it_goes_on():
    assert page_head.shortened("One two. Three four five.", longest=12) == "One two."
    assert page_head.shortened("One two three four", longest=12) == "One two …"


def test_description_is_the_text_below_the_title():
    section = nodes.section("", nodes.title("", "T"), nodes.paragraph("", "First."))
    section += nodes.paragraph("", "With ", nodes.math("", "x^2"))
    document = nodes.Element("", section)
    assert page_head.description(document) == "First."
    assert page_head.description(None) == page_head.ABOUT


def test_title_loses_its_tags():
    assert page_head.plain_text("<em>Boxes</em> &amp; IoU") == "Boxes & IoU"


def test_picture_of_the_card_needs_an_address(tmp_path):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "x.jpg").touch()
    local = page_head.tags("T & t", "about", "", "book/x", tmp_path / "cards")
    assert "og:image" not in local
    assert 'content="T &amp; t"' in local
    online = page_head.tags("T", "about", BASE, "book/x", tmp_path / "cards")
    assert f'<meta property="og:image" content="{BASE}_static/cards/x.jpg" />' in online
    other = page_head.tags("T", "about", BASE, "book/y", tmp_path / "cards")
    assert f'content="{BASE}_static/detections.jpg"' in other


@pytest.mark.parametrize("repository", ["", "https://github.com/ada/seen-once"])
def test_mistakes_can_be_reported_where_the_repository_is_known(repository):
    options = {"repository_url": repository}
    config = SimpleNamespace(html_baseurl="", html_theme_options=options)
    app, context = SimpleNamespace(config=config, srcdir=ROOT), {"body": "", "title": "T"}
    page_head.add_to_page(app, "book/x", "", context, nodes.Element(""))
    assert ("/issues/new?title=Mistake%20in%20book/x" in context["body"]) == bool(repository)


def test_sitemap_is_xml_with_full_addresses():
    tree = ElementTree.fromstring(page_head.sitemap(BASE, ["book/intro", "book/faq"]).encode())
    assert [place.text for place in tree.iter() if place.tag.endswith("loc")] == [
        f"{BASE}book/intro.html",
        f"{BASE}book/faq.html",
    ]


# --- Columns of numbers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["0.5", "-1", "−0.25", "+0.002 to +0.008", "311 : 1", "65 ± 1", "8,732", ".5", "3 px", "~6000"],
)
def test_numbers_are_known(text):
    assert number_columns.is_number(text)


@pytest.mark.parametrize(
    "text", ["", "SSD300", "38 × 38", "(6, 8)", "16²", "3.11.7", "5d5b759", "2 per class"]
)
def test_other_words_are_no_numbers(text):
    assert not number_columns.is_number(text)


def test_column_of_numbers_is_aligned_with_its_heading():
    rows = [["map", "s", "count"], ["fine", "30 px", "5,776"], ["coarse", "264 px", "–"]]
    entries = [nodes.row("", *(nodes.entry("", nodes.paragraph("", t)) for t in r)) for r in rows]
    head, body = nodes.thead("", entries[0]), nodes.tbody("", *entries[1:])
    number_columns.align(nodes.tgroup("", head, body))
    assert [[e["classes"] for e in row] for row in entries] == [
        [[], ["text-right"], ["text-right"]]
    ] * 3


# --- The top of a chapter ---------------------------------------------------------------------


def test_reading_time_counts_prose_and_code():
    cell = nodes.container("", nodes.literal_block("", "a\n" * 199), classes=["cell_input"])
    output = nodes.literal_block("", "never counted\n" * 999)
    document = nodes.Element("", nodes.paragraph("", "word " * 1800), cell, output)
    assert chapter_top.code_lines(document) == 200
    assert chapter_top.reading_minutes(document) == 20  # ten for the words, ten for the lines


def test_box_gets_the_figure_and_the_time():
    figure = nodes.figure("", nodes.image(uri="x.png", alt="described"), ids=["fig-x"])
    link = nodes.reference("", "Fig. 7", refid="fig-x")
    box = nodes.admonition("", nodes.title("", "You can"), nodes.paragraph("", "", link))
    box["classes"] = ["goals"]
    chapter_top.complete(None, nodes.Element("", box, figure), "")
    assert box[1]["classes"] == ["goals-figure"]
    assert box[1][0]["uri"] == "x.png"
    assert box[1][0]["alt"] == "Go to Fig. 7"
    assert box[-1].astext() == "Reading time: about 5 minutes."


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_says_what_readers_can_do_and_which_figure_to_remember(path):
    text = path.read_text(encoding="utf-8")
    above, found, _ = text.partition("\n## ")
    box = re.search(r"^:::\{admonition\} After this \w+ you can\n:class: goals\n", above, re.M)
    assert found
    assert box, "copy the box below the title from another chapter"
    assert f"name: {cards.NAMED.search(text)[1]}\n" in text


# --- The package's page -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"), [(" = (0.1, 0.2)", " = (0.1, 0.2)"), (f" = {list(range(99))}", " = …")]
)
def test_long_values_are_left_out_of_signatures(value, shown):
    kind = addnodes.desc_annotation("", nodes.Text("class of a name that is long " * 9))
    signature = addnodes.desc_signature("", "", kind, addnodes.desc_annotation())
    signature[1] += nodes.Text(value)
    content = addnodes.desc_content()
    addnodes.desc("", signature, content)
    docstrings.shorten(None, "py", "data", content)
    assert signature[1].astext() == shown
    assert signature[1][0].parent is signature[1]
    assert signature[0].astext().startswith("class")


def test_fields_without_a_word_of_their_own_are_left_out():
    def left_out(obj):
        return docstrings.leave_out(None, "class", "x", obj, False, None)

    assert left_out(Detections.boxes)
    assert left_out(Detections) is None  # Sphinx decides
    assert left_out(Detections.count) is None


# --- Cards and citation -----------------------------------------------------------------------


def test_cards_show_the_figure_that_the_chapter_names():
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# T\n\n:class: goals\n{numref}`fig-gone`")]
    with pytest.raises(ValueError, match="no cell draws the figure 'fig-gone'"):
        cards.remembered(notebook)


@pytest.mark.parametrize("size", [(700, 300), (300, 700), (500, 500)])
def test_card_has_its_size_and_holds_the_figure(size):
    card = cards.fitted(Image.new("RGB", size, "black"), cards.CARD)
    assert card.size == cards.CARD
    assert card.getpixel((cards.CARD[0] // 2, cards.CARD[1] // 2)) == (0, 0, 0)
    assert card.getpixel((0, 0)) == (255, 255, 255)
    assert cards.social(card, "Boxes: how wrong?").size == cards.SOCIAL


def test_citation_follows_the_file():
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    entry = citation.bibtex(facts, "2026")
    assert f"version = {{{facts['version']}}}" in entry
    assert entry.count("{") == entry.count("}")


def test_memory_is_drawn_up_to_the_end_of_the_work():
    figure, ax = plt.subplots()
    memory.draw(ax, "video", {"0": 5, "40": 7, "99": 6})
    assert ax.lines[0].get_xydata().tolist() == [[0, 5], [40, 7], [99, 6], [100, 6]]
    plt.close(figure)
