/** The detector itself: draw digits on a photograph, and the shipped network finds them. */
AnnotatedSSD.define("detector", async (element) => {
  "use strict";
  const { load, dataset, make, svg, slider, choice, button, announcer } = AnnotatedSSD;
  const { pictures, paints, digits, preview, hint } = await dataset("pictures");
  const SIDE = 256; // pixels of a picture at most; the network shrinks it to its own 128
  const setting = { score: 0.5, paint: "yellow", width: 0.08 };
  let detector = null, found = preview, chosen = null; // chosen: the detection that is explained
  let strokes = [], camera = null, sprayed = 0;
  let looks = 0, looking = false, again = false, ms = 0;

  // --- elements ---

  const two = (value) => value.toFixed(2);
  const controls = (...children) => make("div", { class: "try-controls" }, ...children);
  const canvas = make("canvas", { role: "img" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const background = make("canvas").getContext("2d"); // the picture without the strokes
  const drawing = svg("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, "aria-hidden": "true" });
  const start = button("Start the detector (2.4 MB)", begin);
  const wall = make("div", { class: "try-stage try-wall" }, canvas, drawing, start);
  const heading = make("p", { class: "try-big" }, "Draw a digit, and see it found");
  const sentence = make("p", {}, "The network runs on your own device, and no picture leaves it.");
  const list = make("div", { class: "try-controls", role: "group", "aria-label": "Answers, best first" });
  const detail = make("div");
  const file = make("input", { type: "file", accept: "image/*", hidden: "", onchange: () => open(file.files[0]) });
  const picture = choice({
    label: "Picture", value: "0", change: (index) => show(pictures[index].source, pictures[index].name),
    options: { ...pictures.map(({ name }) => name), own: "your own" },
  });
  const select = picture.querySelector("select");
  select.lastElementChild.hidden = true; // what was opened has a name, but is no choice
  const film = button("Camera", () => (camera ? stop() : shoot()));
  film.hidden = !(navigator.mediaDevices && navigator.mediaDevices.getUserMedia);
  const cans = Object.entries(paints).map(([name, colour]) => make("input", {
    type: "radio", name: "try-paint", "aria-label": name, title: name, style: `background: ${colour}`,
    checked: name === setting.paint && "", onchange: () => { setting.paint = name; },
  }));
  element.append(
    controls(picture, button("Open a picture", () => file.click()), file, film),
    make("div", { class: "try-columns" },
      make("div", {}, wall, controls(
        make("fieldset", { class: "try-paints" }, make("legend", { class: "try-hidden" }, "Paint"), ...cans),
        slider({
          label: "Brush", min: 0.03, max: 0.15, step: 0.01, value: setting.width,
          format: (value) => `${Math.round(100 * value)}%`, change: (value) => { setting.width = value; },
        }),
        make("div", { class: "try-paints" }, button("Undo", () => repaint(strokes.slice(0, -1))),
          button("Clear", () => repaint([])), button("Spray one for me", spray))),
        make("p", { class: "try-hint" }, hint)),
      make("div", {}, heading, sentence, slider({
        label: "Score above", min: 0.01, max: 0.95, step: 0.01, value: setting.score, format: two,
        change: (value) => { setting.score = value; update(); },
      }), list, detail)));
  element.classList.add("try-idle"); // hides what is of no use yet
  const say = announcer(element);

  // --- the pictures ---

  /** Put an image under the strokes: its middle square, at most SIDE pixels wide. */
  function put(image, width, height) {
    const square = Math.min(width, height), side = Math.min(square, SIDE);
    canvas.width = canvas.height = background.canvas.width = background.canvas.height = side;
    background.imageSmoothingQuality = "high";
    background.drawImage(image, (width - square) / 2, (height - square) / 2, square, square, 0, 0, side, side);
    repaint(strokes);
  }

  async function show(source, name) {
    const image = make("img", { src: source });
    await image.decode();
    stop();
    canvas.setAttribute("aria-label", `${name}, to draw on`);
    strokes = [];
    put(image, image.naturalWidth, image.naturalHeight);
  }

  async function open(image) {
    if (!image) return;
    const address = URL.createObjectURL(image);
    try {
      await show(address, image.name);
      select.value = "own";
    } catch {
      sentence.textContent = `This browser cannot show ${image.name}.`;
    }
    URL.revokeObjectURL(address);
  }

  async function shoot() {
    const video = make("video", { playsinline: "" });
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      await video.play();
    } catch (error) {
      sentence.textContent = `There is no picture from a camera: ${error.message}`;
      return;
    }
    camera = video;
    film.textContent = "Hold this picture";
    canvas.setAttribute("aria-label", "What the camera sees, to draw on");
    strokes = [];
    select.value = "own";
    while (camera === video) {
      if (!looking) put(video, video.videoWidth, video.videoHeight);
      await new Promise(requestAnimationFrame);
    }
  }

  function stop() {
    if (camera) camera.srcObject.getTracks().forEach((track) => track.stop());
    camera = null;
    film.textContent = "Camera";
  }

  // --- strokes ---

  const stroke = (points) => ({ colour: paints[setting.paint], width: setting.width, points });

  function paint({ colour, width, points }, from = 0) {
    const side = canvas.width;
    context.strokeStyle = colour;
    context.lineWidth = width * side;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    points.slice(from).forEach(([x, y]) => context.lineTo(x * side, y * side));
    context.stroke();
  }

  function repaint(those) {
    strokes = those;
    context.drawImage(background.canvas, 0, 0);
    strokes.forEach((each) => paint(each));
    look();
  }

  /** The next digit, in the next corner and in the chosen paint. */
  function spray() {
    const high = 0.32 + 0.04 * Math.random(), wide = 0.75 * high;
    const [left, top] = [wide, high].map((size, axis) => (sprayed >> axis & 1 ? 0.9 - size : 0.1));
    const lines = digits[(7 + 3 * sprayed) % 10].map((line) => stroke(line.map(([x, y]) => [left + wide * x, top + high * y])));
    sprayed += 1;
    repaint([...strokes, ...lines]);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 0 || !detector) return;
    event.preventDefault(); // no selection of text
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const place = ({ clientX, clientY }) => [(clientX - left) / width, (clientY - top) / height];
    const first = place(event), line = stroke([first]);
    canvas.setPointerCapture(event.pointerId);
    canvas.onpointermove = (now) => {
      const [x, y] = place(now);
      // What moves by less than three pixels of a phone is a click.
      if (strokes.at(-1) !== line && Math.hypot(x - first[0], y - first[1]) < 0.01) return;
      if (strokes.at(-1) !== line) strokes.push(line);
      paint(line, line.points.push([x, y]) - 2);
      look();
    };
    canvas.onpointerup = canvas.onpointercancel = () => {
      canvas.onpointermove = canvas.onpointerup = canvas.onpointercancel = null;
      if (strokes.at(-1) !== line) explainAt(first);
    };
  });

  wall.addEventListener("dragover", (event) => event.preventDefault());
  wall.addEventListener("drop", (event) => {
    event.preventDefault();
    open(event.dataTransfer.files[0]);
  });

  // --- the detector ---

  async function begin() {
    start.disabled = true;
    start.textContent = "Loading …";
    try {
      const [weights] = await Promise.all([dataset("weights"), load("maths.js"), load("network.js")]);
      detector = await AnnotatedSSD.startDetector(weights);
    } catch (error) {
      start.textContent = "The network did not load";
      throw error;
    }
    element.classList.remove("try-idle");
    start.remove();
    select.focus({ preventScroll: true }); // the button that had the focus is gone
    look();
  }

  /** Show the picture to the network, and once more if it has changed meanwhile. */
  async function look() {
    again = true;
    if (!detector) update();
    if (!detector || looking) return;
    looking = element.tryState.busy = true;
    while (again) {
      again = false;
      ({ found, ms } = await detector.detect(context.getImageData(0, 0, canvas.width, canvas.width)));
      looks += 1;
      // What is explained may be there still.
      chosen = chosen && found.find((each) => each.prior === chosen.prior && each.label === chosen.label);
      looking = again;
      update();
    }
  }

  const shown = () => found.filter((each) => each.score > setting.score);
  const title = ({ name, score }) => `${name} (${two(score)})`;

  function choose(detection) {
    chosen = detection === chosen ? null : detection;
    update();
  }

  /** A click: the smallest box around it explains itself. */
  function explainAt([x, y]) {
    const area = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
    const around = shown().filter(({ box }) => x > box[0] && y > box[1] && x < box[2] && y < box[3]);
    choose(around.sort((a, b) => area(a) - area(b))[0] || null);
  }

  function outline(box, kind) {
    const [x, y, right, bottom] = box.map((value) => value * SIDE);
    return svg("rect", { class: kind, x, y, width: right - x, height: bottom - y });
  }

  function tag(detection) {
    const [x, y] = detection.box.map((value) => value * SIDE);
    const place = { x: Math.min(Math.max(x, 2), 212), y: Math.max(y - 4, 10) };
    return svg("text", { class: "try-tag", ...place }, title(detection));
  }

  function update() {
    const boxes = shown();
    drawing.replaceChildren(
      ...(chosen ? chosen.removed.map(({ box }) => outline(box, "try-answer try-waiting")) : []),
      ...boxes.map((each) => outline(each.box, `try-answer try-${each === chosen ? "now" : "kept"}`)),
      ...(chosen ? [outline(AnnotatedSSD.maths.toCorners(chosen.from), "try-prior")] : []),
      ...boxes.map(tag));
    if (detector) tell(boxes);
    element.tryState = {
      threaded: detector && detector.threaded, busy: looking, looks, ms, chosen, detections: boxes,
      strokes: strokes.length, side: canvas.width,
    };
  }

  function tell(boxes) {
    heading.textContent = boxes.length === 1 ? "1 digit found" : `${boxes.length || "No"} digits found`;
    sentence.textContent = `The network took ${two(ms / 1000)} s. ` +
      `${found.length} answers above .01 survive suppression.`;
    const focused = [...list.children].indexOf(document.activeElement);
    list.replaceChildren(...boxes.slice(0, 12).map((each) => {
      const entry = button(title(each), () => choose(each));
      entry.setAttribute("aria-pressed", each === chosen);
      return entry;
    }));
    if (focused >= 0) (list.children[focused] || select).focus();
    detail.replaceChildren(...(chosen ? explain(chosen) : [
      make("p", { class: "try-hint" }, "Choose an answer, or click its box, to see which prior gave it.")]));
    say(`${heading.textContent}: ${boxes.slice(0, 12).map(title).join(", ")}`);
  }

  /** Which prior spoke, and everything that it said. */
  function explain({ prior, from, logits, scores, offsets, removed, name, names }) {
    const [cx, cy, w, h] = from.map(two);
    const [right, down, wider, higher] = offsets.map((value) => (value < 0 ? "−" : "+") + two(Math.abs(value)));
    const cells = (tag, ...contents) => contents.map((content) => make(tag, {}, content));
    return [
      make("p", {}, `Prior ${prior} (dashed) said ${name}. Its centre is (${cx}, ${cy}); it is ${w} wide and ${h} high. ` +
        `Its offsets: right ${right}, down ${down}, wider ${wider}, higher ${higher}. ` +
        `In favour of its answer, suppression removed ${removed.length} others (thin).`),
      make("table", { class: "try-said" }, make("tr", {}, ...cells("th", "class", "logit", "score")),
        ...scores.map((score, label) => make("tr", {}, make("th", { scope: "row" }, names[label]),
          ...cells("td", logits[label].toFixed(1), two(score), make("i", { style: `width: ${4 * score}rem` }))))),
    ];
  }

  await show(pictures[0].source, pictures[0].name);
});
