"""The network in the page finds what the package finds, and anyone can use its figure."""

import cv2
import numpy as np
import pytest
import torch

from ssd_annotated import GraffitiDigits, detect, pretrained
from ssd_annotated.transforms import prepare

#: Runs before the page's own scripts: a browser without workers.
NO_WORKERS = "window.Worker = function () { throw new Error('no workers here'); };"
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
DRAWN = [(0.34, 0.3), (0.62, 0.3), (0.55, 0.5), (0.48, 0.7)], [(0.42, 0.5), (0.66, 0.5)]  # a seven


class Figure:
    """The figure on a page: its elements, and what it shows."""

    def __init__(self, page):
        self.page, self.element = page, page.locator('[data-try="detector"]').first
        self.element.scroll_into_view_if_needed()
        page.locator('.try-ready[data-try="detector"]').wait_for()
        self.canvas = self.element.locator("canvas")

    def button(self, name):
        return self.element.get_by_role("button", name=name)

    def state(self, name):
        return self.element.evaluate("(element, name) => element.tryState[name]", name)

    def start(self):
        self.button("Start the detector").click()
        return self.settled(0)

    def settled(self, looks):
        """Wait until the network has looked again; how often it has looked by then."""
        condition = (
            "looks => { const { looks: now, busy } = document.querySelector('[data-try=detector]')"
            ".tryState; return now > looks && !busy; }"
        )
        self.page.wait_for_function(condition, arg=looks, timeout=60_000)
        return self.state("looks")

    def looked(self, looks):
        """Wait until the network has looked more often, although the picture may go on moving."""
        condition = "looks => document.querySelector('[data-try=detector]').tryState.looks > looks"
        self.page.wait_for_function(condition, arg=looks)

    def open(self, image, looks):
        """Let the reader choose a file with this picture."""
        _, data = cv2.imencode(".png", image[:, :, ::-1])
        file = {"name": "wall.png", "mimeType": "image/png", "buffer": data.tobytes()}
        self.element.locator("input[type=file]").set_input_files(file)
        return self.settled(looks)

    def drop(self, name, kind, content):
        """Drop a file on the picture, as from a folder of the reader's device."""
        self.canvas.evaluate(
            """(canvas, [name, type, bytes]) => {
                const dataTransfer = new DataTransfer();
                if (name) dataTransfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
                else dataTransfer.setData("text/plain", "no file at all");
                for (const kind of ["dragover", "drop"]) {
                    const how = { dataTransfer, bubbles: true, cancelable: true };
                    const leaves = canvas.dispatchEvent(new DragEvent(kind, how));
                    if (leaves) throw new Error(`after ${kind} the browser opens the file itself`);
                }
            }""",
            [name, kind, list(content)],
        )

    def notice(self):
        return self.element.get_by_role("alert").inner_text()

    def picture(self):
        """The picture itself, to be compared with another."""
        return self.canvas.evaluate("canvas => canvas.toDataURL()")

    def set_threshold(self, value):
        slider = self.element.get_by_label("Score above")
        slider.evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }",
            value,
        )

    def moments_while_looking(self):
        """How often the page could do something else while the network looked at one picture."""
        return self.element.evaluate(
            """async (element) => {
                let moments = 0;
                const buttons = [...element.querySelectorAll("button")];
                buttons.find((each) => each.textContent === "Clear").click();
                for (; element.tryState.busy; moments += 1) {
                    await new Promise(requestAnimationFrame);
                }
                return moments;
            }"""
        )

    def place(self, x, y):
        box = self.canvas.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def names(self):
        return [found["name"] for found in self.state("detections")]


@pytest.fixture
def figure(page, site):
    page.goto(f"{site.url}book/try.html")
    return Figure(page)


def assert_same(shown, found):
    """The page's detections are the package's: the same boxes in the same order, scores, names."""
    assert [each["label"] for each in shown] == found.labels.tolist()
    scores = torch.tensor([each["score"] for each in shown])
    assert (scores - found.scores).abs().max() < 1e-3
    boxes = torch.tensor([each["box"] for each in shown])
    assert (boxes - found.boxes).abs().max() < 1e-3


def crops():
    """Scenes as cameras and other programs give them: of other sizes, one of them upright."""
    scene = GraffitiDigits("test", length=22, image_size=256)[21][0]
    yield from (scene, cv2.resize(scene, (200, 200)), cv2.resize(scene, (90, 90)))
    frame = np.zeros((20, 256, 3), np.uint8)  # of an upright picture only the middle is used
    yield np.concatenate([frame, scene, frame])


def test_twenty_scenes_give_the_boxes_and_scores_of_the_package(figure, record_property):
    model, looks, times = pretrained(), figure.start(), []
    scenes = GraffitiDigits("test", length=20)
    images = [*(scenes[index][0] for index in range(20)), *crops()]
    expected = detect(model, [*images[:-1], images[-1][20:-20]], score_threshold=0.2)
    assert figure.state("threaded")
    figure.set_threshold(0.2)
    for image, found in zip(images, expected):
        looks = figure.open(image, looks)
        assert_same(figure.state("detections"), found)
        times.append(figure.state("ms"))
    assert sum(len(found.scores) for found in expected) > 40
    record_property("milliseconds", sorted(times)[len(times) // 2])
    print(f"\nmilliseconds per picture: {min(times):.0f} to {max(times):.0f}")


def test_all_that_is_sure_at_least_a_little_agrees(figure):
    """Down to a score of 0.01 an answer may fall on either side; the others are the same."""
    scene = GraffitiDigits("test", length=1, image_size=256)[0][0]
    (found,) = detect(pretrained(), [scene])
    looks = figure.start()
    figure.set_threshold(0.01)
    figure.open(scene, looks)
    shown = figure.state("detections")
    sure = int((found.scores > 0.012).sum())
    assert sure > 5
    assert_same(shown[:sure], type(found)(*(column[:sure] for column in found)))


def test_without_workers_the_page_computes_the_same(page, figure):
    scene = GraffitiDigits("test", length=3)[2][0]
    looks = figure.start()
    figure.open(scene, looks)
    threaded = figure.state("detections")
    page.add_init_script(NO_WORKERS)
    page.reload()
    figure = Figure(page)
    looks = figure.start()
    assert figure.state("threaded") is False
    figure.open(scene, looks)
    assert figure.state("detections") == threaded


def test_the_mouse_draws_a_seven_and_the_network_reads_it(figure):
    looks = figure.start()
    figure.element.get_by_label("Picture").select_option(label="grass from above")
    looks = figure.settled(looks)
    mouse = figure.page.mouse
    for line in DRAWN:
        mouse.move(*figure.place(*line[0]))
        mouse.down()
        for point in line[1:]:
            mouse.move(*figure.place(*point), steps=8)
        mouse.up()
    looks = figure.settled(looks)
    assert figure.state("strokes") == 2
    assert "7" in figure.names()
    box = next(each["box"] for each in figure.state("detections") if each["name"] == "7")
    assert np.allclose(box, (0.3, 0.26, 0.7, 0.74), atol=0.08)
    for left in (1, 0, 0):
        figure.button("Undo").click()
        looks = figure.settled(looks)
        assert figure.state("strokes") == left


@pytest.mark.parametrize("context_options", [PHONE])
def test_a_finger_draws_without_scrolling_the_page(figure, page):
    looks = figure.start()
    figure.element.get_by_label("Picture").select_option(label="grass from above")
    looks = figure.settled(looks)
    figure.canvas.scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    finger = page.context.new_cdp_session(page)
    for line in DRAWN:
        touches = [("Start", line[:1]), *(("Move", [point]) for point in line), ("End", [])]
        for kind, places in touches:
            points = [{"x": x, "y": y} for x, y in (figure.place(*point) for point in places)]
            finger.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    figure.settled(looks)
    assert page.evaluate("scrollY") == before
    assert figure.state("strokes") == 2
    assert "7" in figure.names()
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_the_keyboard_does_everything(figure, page):
    figure.button("Start the detector").focus()
    page.keyboard.press("Enter")
    looks = figure.settled(0)
    assert page.evaluate("document.activeElement.tagName") == "SELECT"  # where the keys go on
    page.keyboard.press("ArrowDown")
    looks = figure.settled(looks)
    assert figure.element.get_by_label("Picture").input_value() == "graffiti 2"

    figure.button("Spray one for me").focus()
    page.keyboard.press("Enter")
    figure.settled(looks)
    assert figure.state("strokes") == 2  # a seven with its bar
    figure.element.get_by_label("yellow", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert figure.element.get_by_label("red", exact=True).is_checked()
    slider = figure.element.get_by_label("Score above")
    slider.focus()
    page.keyboard.press("Home")
    count = len(figure.state("detections"))
    page.keyboard.press("End")
    assert len(figure.state("detections")) < count
    page.keyboard.press("Home")

    answer = figure.element.locator("[aria-pressed]").first
    answer.focus()
    page.keyboard.press("Enter")
    assert figure.element.locator("[aria-pressed]").first.get_attribute("aria-pressed") == "true"
    # The list was drawn anew, and the focus is where it was.
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_a_click_on_a_box_shows_the_prior_that_spoke(figure):
    scene = GraffitiDigits("test", length=1, image_size=256)[0][0]
    looks = figure.start()
    figure.open(scene, looks)
    best = figure.state("detections")[0]
    left, top, right, bottom = best["box"]
    figure.page.mouse.click(*figure.place((left + right) / 2, (top + bottom) / 2))
    chosen = figure.state("chosen")
    assert figure.state("strokes") == 0  # a click is no stroke
    assert chosen["prior"] == best["prior"]

    model = pretrained()
    with torch.no_grad():
        offsets, logits = model(prepare(scene, model.recipe)[None])
    prior = chosen["prior"]
    assert torch.allclose(model.priors[prior], torch.tensor(chosen["from"]), atol=1e-6)
    assert torch.allclose(offsets[0, prior], torch.tensor(chosen["offsets"]), atol=0.01)
    assert torch.allclose(logits[0, prior], torch.tensor(chosen["logits"]), atol=0.01)
    said = figure.element.inner_text()
    assert f"Prior {prior} (dashed) said {chosen['name']}" in said
    assert f"removed {len(chosen['removed'])} others" in said
    assert figure.element.locator("svg .try-prior").count() == 1
    assert figure.element.locator("svg .try-waiting").count() == len(chosen["removed"]) > 0


def test_the_page_answers_while_the_network_works(figure):
    figure.start()
    assert figure.moments_while_looking() > 4


def test_a_file_that_is_no_picture_is_refused_in_words(figure):
    figure.start()
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    figure.element.locator("input[type=file]").set_input_files(file)
    figure.element.get_by_text("This browser cannot show notes.txt.").wait_for()

    assert figure.notice() == "This browser cannot show notes.txt."  # and is said aloud


def png(image):
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def test_a_dropped_picture_is_shown_and_searched(figure):
    scene, other = (GraffitiDigits("test", length=6, image_size=256)[k][0] for k in (3, 5))
    # Before the start: the drop starts the detector, and the first picture's boxes are gone.
    figure.drop("wall.png", "image/png", png(scene))
    looks = figure.settled(0)
    assert_same(figure.state("detections"), detect(pretrained(), [scene], score_threshold=0.5)[0])
    assert figure.canvas.get_attribute("aria-label") == "wall.png, to draw on"
    assert figure.element.get_by_label("Picture").input_value() == "your own"
    figure.drop("other.png", "image/png", png(other))
    figure.settled(looks)
    assert_same(figure.state("detections"), detect(pretrained(), [other], score_threshold=0.5)[0])
    assert figure.canvas.get_attribute("aria-label") == "other.png, to draw on"


def test_what_is_dropped_and_no_picture_is_refused(figure):
    before = figure.picture()
    for name, kind, content in (
        ("notes.txt", "text/plain", b"no picture"),
        ("torn.png", "image/png", png(np.zeros((9, 9, 3), np.uint8))[:40]),
    ):
        figure.drop(name, kind, content)
        figure.element.get_by_text(f"This browser cannot show {name}.").wait_for()
    figure.drop("", "", b"")  # a word from another page
    assert figure.picture() == before
    assert figure.button("Start the detector").is_enabled()
    assert len(figure.state("detections")) == 2  # those of the first picture, as before


# --- The camera -----------------------------------------------------------------------------------

#: Keeps every stream that the page was given.
WATCH_CAMERA = """
window.streams = [];
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await ask(wanted);
    window.streams.push(stream);
    return stream;
};
"""
#: What the browser does when the reader turns to another tab.
HIDE = """
Object.defineProperty(document, "hidden", { value: true, configurable: true });
document.dispatchEvent(new Event("visibilitychange"));
"""
FILMED = {"viewport": {"width": 1400, "height": 900}, "permissions": ["camera"]}


class Camera:
    """The figure with a camera that is watched."""

    def __init__(self, page, site):
        page.add_init_script(WATCH_CAMERA)
        page.goto(f"{site.url}book/try.html")
        self.page, self.figure = page, Figure(page)
        self.figure.start()

    def live(self):
        """How many tracks of the camera run."""
        return self.page.evaluate(
            "streams.flatMap((stream) => stream.getTracks())"
            ".filter((track) => track.readyState === 'live').length"
        )

    def film(self):
        """Switch it on, and wait until the network has seen a picture."""
        looks = self.figure.state("looks")
        self.figure.button("Camera").click()
        self.figure.button("Hold this picture").wait_for()
        self.figure.looked(looks)
        assert self.live() == 1

    def is_off(self):
        self.figure.button("Camera").wait_for()
        return self.live() == 0


@pytest.mark.parametrize("context_options", [FILMED])
def test_the_camera_s_picture_moves_until_it_is_held(page, site):
    camera = Camera(page, site)
    figure = camera.figure
    camera.film()
    assert figure.canvas.get_attribute("aria-label") == "What the camera sees, to draw on"
    assert figure.element.get_by_label("Picture").input_value() == "your own"
    shown = {figure.picture()}
    looks = figure.state("looks")
    figure.looked(looks + 2)
    assert figure.picture() not in shown  # it moves, and the network follows
    figure.button("Hold this picture").click()
    assert camera.is_off()
    figure.settled(looks)
    held = figure.picture()
    page.wait_for_timeout(300)
    assert figure.picture() == held
    looks = figure.state("looks")
    figure.button("Spray one for me").click()  # it can be drawn on
    figure.settled(looks)
    assert figure.state("strokes") > 0


@pytest.mark.parametrize("context_options", [FILMED])
def test_the_camera_runs_only_while_its_picture_is_seen(page, site):
    camera = Camera(page, site)
    figure = camera.figure

    camera.film()
    figure.element.get_by_label("Picture").select_option(label="grass from above")
    assert camera.is_off()
    camera.film()
    figure.drop("notes.txt", "text/plain", b"no picture")
    assert camera.is_off()
    camera.film()
    page.evaluate("scrollTo(0, 0)")
    assert camera.is_off()
    camera.film()
    page.evaluate(HIDE)
    assert camera.is_off()
    # Whoever is impatient gets one camera, and who changes his mind none.
    asked = page.evaluate("streams.length")
    film = figure.button("Camera").element_handle()
    film.evaluate("film => { film.click(); film.click(); }")
    page.wait_for_function("asked => streams.length === asked + 2", arg=asked)
    figure.button("Hold this picture").wait_for()
    assert camera.live() == 1
    figure.button("Hold this picture").click()
    film.evaluate(
        """film => {
            film.click();
            const select = film.parentElement.querySelector("select");
            select.value = "graffiti 3";
            select.dispatchEvent(new Event("change"));
        }"""
    )
    page.wait_for_function("asked => streams.length === asked + 3", arg=asked)
    assert camera.is_off()
    assert figure.canvas.get_attribute("aria-label") == "graffiti 3, to draw on"


def refuse_camera(name):
    return (
        "navigator.mediaDevices.getUserMedia = async () => "
        f"{{ throw new DOMException('the words of the browser', '{name}'); }};"
    )


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("", "No picture from a camera: it is not allowed."),  # nobody gave the permission
        (refuse_camera("NotFoundError"), "No picture from a camera: there is none."),
        (refuse_camera("NotReadableError"), "No picture from a camera: the words of the browser."),
    ],
)
def test_without_a_camera_there_is_a_clear_word(page, site, script, told):
    if script:
        page.add_init_script(script)
    page.goto(f"{site.url}book/try.html")
    figure = Figure(page)
    figure.start()
    before = figure.picture()
    figure.button("Camera").click()
    figure.element.get_by_text(told).wait_for()
    assert figure.notice() == told
    assert figure.picture() == before
    figure.element.get_by_label("Picture").select_option(label="graffiti 2")
    figure.element.get_by_text(told).wait_for(state="hidden")  # told once


def test_where_no_camera_can_be_asked_for_there_is_no_button(page, site):
    page.add_init_script("Object.defineProperty(navigator, 'mediaDevices', { value: undefined });")
    page.goto(f"{site.url}book/try.html")
    figure = Figure(page)
    figure.start()
    assert figure.button("Open a picture").is_visible()
    assert not figure.button("Camera").is_visible()


def test_answers_are_announced(figure):
    figure.start()
    region = figure.element.locator("[aria-live=polite]")
    region.get_by_text("digits found").wait_for()
    assert figure.names()[0] in region.inner_text()


def test_the_weights_are_loaded_on_demand_only(page, site):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site.url}book/try.html")
    figure = Figure(page)
    assert not any("weights.js" in url for url in asked)
    figure.start()
    assert sum("weights.js" in url for url in asked) == 1


def test_it_works_from_files(page, site):
    page.goto((site.folder / "book" / "try.html").as_uri())
    figure = Figure(page)
    figure.start()
    assert figure.state("threaded")
    assert len(figure.state("detections")) == 2
