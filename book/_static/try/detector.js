/**
 * The detector itself: draw digits on a photograph, and the shipped network finds them. The network
 * (2.4 MB) is loaded when the reader asks for it; pictures never leave the page.
 */
AnnotatedSSD.define("detector", async (element) => {
  "use strict";
  const { load, dataset, make, svg, slider, choice, button, announcer } = AnnotatedSSD;
  const { scenes, walls, preview } = await dataset("pictures");
  const SIDE = 256; // pixels of a picture at most; the network shrinks it to its own 128
  const PAINTS = {
    white: "#fafafa", black: "#141414", yellow: "#ffdc00", red: "#e61e1e", green: "#00c850", blue: "#1e5aff",
  };
  // For readers who cannot draw here: strokes in a square of 10 by 10.
  const DIGITS = [
    "5,0 2,1 0,4 0,7 2,9 5,10 8,9 9,7 9,4 8,1 5,0", "2,2 5,0 5,10", "1,2 4,0 7,1 8,3 6,6 1,10 9,10",
    "1,1 5,0 8,1 8,3 4,5 8,6 9,8 6,10 1,9", "5,0 1,6 9,6|7,3 7,10", "8,0 2,0 1,4 5,4 8,5 8,8 5,10 1,9",
    "6,0 2,3 0,7 2,10 6,10 8,8 6,6 1,7", "0,0 9,0 4,10",
    "5,5 2,3 2,1 5,0 8,1 8,3 5,5 1,7 2,10 5,10 8,10 9,7 5,5", "8,3 5,5 1,4 1,1 5,0 8,1 8,4 6,10",
  ].map((digit) => digit.split("|").map((line) => line.split(" ").map((p) => p.split(",").map(Number))));

  const setting = { score: 0.3, paint: "white", width: 0.08 };
  let detector = null, found = preview, chosen = null; // chosen: a detection whose prior is shown
  let strokes = [], looks = 0, looking = false, again = false, ms = 0, camera = null, turn = 7;

  // ------------------------------------------------------------------------- the elements

  const canvas = make("canvas", { width: SIDE, height: SIDE, role: "img" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const background = make("canvas").getContext("2d"); // the picture without the strokes
  const drawing = svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const names = make("div", { "aria-hidden": "true" });
  const start = button("Start the detector (2.4 MB)", begin);
  const stage = make("div", { class: "try-stage try-wall" }, canvas, drawing, names, start);
  const heading = make("p", { class: "try-big" }, "A network in this page");
  const sentence = make("p", {}, "It runs on your own device. No picture leaves it.");
  const list = make("div", { class: "try-controls", role: "group", "aria-label": "What was found, best first" });
  const detail = make("div");
  const file = make("input", { type: "file", accept: "image/*", hidden: "", onchange: () => open(file.files[0]) });
  const places = {};
  walls.forEach(({ alt }, index) => { places[`wall ${index}`] = `a wall: ${alt}`; });
  scenes.forEach((_, index) => { places[`scene ${index}`] = `graffiti ${index + 1}`; });
  const picture = choice({ label: "Picture", value: "scene 0", options: { ...places, own: "your own" }, change: show });
  const select = picture.querySelector("select");
  select.lastElementChild.hidden = true; // "your own" is no choice, only a name for what was opened
  const film = button("Camera", () => (camera ? stopCamera() : startCamera()));
  film.hidden = !navigator.mediaDevices || !navigator.mediaDevices.getUserMedia;
  const undo = button("Undo", () => { strokes.pop(); repaint(); });
  const clear = button("Clear", () => { strokes = []; repaint(); });
  const paints = make("fieldset", { class: "try-paints" }, make("legend", { class: "try-hidden" }, "Paint"),
    ...Object.entries(PAINTS).map(([name, colour]) => make("input", {
      type: "radio", name: "try-paint", "aria-label": name, title: name, checked: name === setting.paint && "",
      style: `background: ${colour}`, onchange: () => { setting.paint = name; },
    })));
  const tools = make("div", { class: "try-controls" }, paints,
    slider({ label: "Brush", min: 0.03, max: 0.16, step: 0.01, value: setting.width,
      format: (value) => `${Math.round(value * 100)}%`, change: (value) => { setting.width = value; } }),
    undo, clear, button("Spray one for me", spray));
  const two = (value) => value.toFixed(2);
  element.append(
    make("div", { class: "try-controls" }, picture, button("Open a picture", () => file.click()), file, film),
    make("div", { class: "try-columns" }, make("div", {}, stage, tools),
      make("div", {}, heading, sentence,
        slider({ label: "Score above", min: 0.01, max: 0.95, step: 0.01, value: setting.score, format: two,
          change: (value) => { setting.score = value; update(); } }),
        list, detail)));
  const say = announcer(element);

  // ------------------------------------------------------------------------- the pictures

  /** Put an image under the strokes: its middle square, at most SIDE pixels wide. */
  function put(image, width, height) {
    const square = Math.min(width, height), side = Math.min(square, SIDE);
    if (canvas.width !== side) canvas.width = canvas.height = side;
    background.canvas.width = background.canvas.height = side;
    background.imageSmoothingQuality = "high";
    background.drawImage(image, (width - square) / 2, (height - square) / 2, square, square, 0, 0, side, side);
    repaint();
  }

  async function showImage(source, alt) {
    stopCamera();
    const image = make("img", { src: source });
    await image.decode();
    canvas.setAttribute("aria-label", alt);
    strokes = [];
    put(image, image.naturalWidth, image.naturalHeight);
  }

  function show(value) {
    const [kind, index] = value.split(" ");
    if (kind === "wall") return showImage(walls[index].source, `A picture to draw on: ${walls[index].alt}.`);
    return showImage(scenes[index], "A wall with painted digits, to draw on.");
  }

  async function open(image) {
    if (!image) return;
    const address = URL.createObjectURL(image);
    try {
      await showImage(address, `Your picture ${image.name}, to draw on.`);
      select.value = "own";
    } catch {
      sentence.textContent = `${image.name} is no picture that this browser can show.`;
    }
    URL.revokeObjectURL(address);
  }

  async function startCamera() {
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      camera = make("video", { muted: "", playsinline: "" });
      camera.srcObject = stream;
      await camera.play();
    } catch (error) {
      camera = null;
      sentence.textContent = `The camera did not start: ${error.message}`;
      return;
    }
    film.textContent = "Hold the picture";
    canvas.setAttribute("aria-label", "What the camera sees, to draw on.");
    strokes = [];
    select.value = "own";
    for (const live = camera; camera === live; await new Promise(requestAnimationFrame)) {
      if (!looking) put(camera, camera.videoWidth, camera.videoHeight);
    }
  }

  function stopCamera() {
    if (camera) camera.srcObject.getTracks().forEach((track) => track.stop());
    camera = null;
    film.textContent = "Camera";
  }

  // -------------------------------------------------------------------------- the strokes

  function paint({ colour, width, points }, from = 0) {
    const side = canvas.width, path = points.slice(Math.max(from - 1, 0));
    context.strokeStyle = colour;
    context.lineWidth = width * side;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    path.forEach(([x, y]) => context.lineTo(x * side, y * side));
    context.stroke();
  }

  function repaint() {
    context.drawImage(background.canvas, 0, 0);
    strokes.forEach((stroke) => paint(stroke));
    look();
  }

  const brush = (points) => ({ colour: PAINTS[setting.paint], width: setting.width, points });

  /** A digit somewhere, in the chosen paint. */
  function spray() {
    const high = 0.35 + 0.15 * Math.random(), wide = 0.75 * high;
    const [left, top] = [wide, high].map((size) => 0.08 + (0.84 - size) * Math.random());
    for (const line of DIGITS[turn]) {
      strokes.push(brush(line.map(([x, y]) => [left + (wide * x) / 10, top + (high * y) / 10])));
    }
    turn = (turn + 3) % 10; // so that all ten have their turn
    repaint();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 0 || !detector) return;
    event.preventDefault(); // no selection of text
    const frame = canvas.getBoundingClientRect();
    const place = ({ clientX, clientY }) => [(clientX - frame.left) / frame.width, (clientY - frame.top) / frame.height];
    const stroke = brush([place(event)]);
    canvas.setPointerCapture(event.pointerId);
    canvas.onpointermove = (now) => {
      const points = (now.getCoalescedEvents ? now.getCoalescedEvents() : []).map(place);
      stroke.points.push(...(points.length ? points : [place(now)]));
      const [[x, y], [u, v]] = [stroke.points[0], stroke.points.at(-1)];
      if (!strokes.includes(stroke) && Math.hypot(u - x, v - y) < 0.015) return; // perhaps only a click
      if (!strokes.includes(stroke)) strokes.push(stroke);
      paint(stroke, stroke.points.length - Math.max(points.length, 1));
      look();
    };
    canvas.onpointerup = canvas.onpointercancel = (now) => {
      canvas.onpointermove = canvas.onpointerup = canvas.onpointercancel = null;
      if (now.type === "pointerup" && !strokes.includes(stroke)) ask(stroke.points[0]);
    };
  });

  /** A click: the smallest box around it explains itself. */
  function ask([x, y]) {
    const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
    const around = shown().filter(({ box }) => x > box[0] && y > box[1] && x < box[2] && y < box[3]);
    chosen = around.sort((a, b) => area(a) - area(b))[0] || null;
    update();
  }

  stage.addEventListener("dragover", (event) => event.preventDefault());
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    open(event.dataTransfer.files[0]);
  });

  // ------------------------------------------------------------------------- the detector

  async function begin() {
    start.disabled = true;
    start.textContent = "Loading …";
    try {
      const [weights] = await Promise.all([dataset("weights"), load("maths.js"), load("network.js")]);
      detector = await AnnotatedSSD.startDetector(weights);
    } catch (error) {
      start.textContent = "The network could not be loaded";
      throw error;
    }
    stage.classList.add("try-live");
    start.remove();
    select.focus({ preventScroll: true }); // the button that had the focus is gone
    look();
  }

  /** Show the picture to the network, and once more if it has changed meanwhile. */
  async function look() {
    if (!detector) return update();
    again = true;
    if (looking) return undefined;
    looking = true;
    while (again) {
      again = false;
      ({ found, ms } = await detector.detect(context.getImageData(0, 0, canvas.width, canvas.width)));
      looks += 1;
      // What was explained may still be there.
      chosen = chosen && found.find(({ prior, label }) => prior === chosen.prior && label === chosen.label);
      looking = again;
      update();
    }
    return undefined;
  }

  const shown = () => found.filter(({ score }) => score > setting.score);

  function outline([x0, y0, x1, y1], kind) {
    return svg("rect", { class: `try-answer ${kind}`, x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
  }

  function name({ name: digit, score, box: [left, top] }) {
    const style = `left: ${100 * Math.min(Math.max(left, 0), 0.86)}%; top: ${100 * Math.max(top, 0.07)}%`;
    return make("span", { class: "try-found", style }, `${digit}  ${two(score)}`);
  }

  function update() {
    const boxes = shown();
    drawing.replaceChildren(
      ...(chosen ? chosen.removed.map(({ box }) => outline(box, "try-struck")) : []),
      ...boxes.map((each) => outline(each.box, each === chosen ? "try-now" : "try-kept")),
      ...(chosen ? [outline(AnnotatedSSD.maths.toCorners(chosen.from), "try-prior")] : []));
    names.replaceChildren(...boxes.map(name));
    undo.disabled = clear.disabled = strokes.length === 0;
    if (detector) tell(boxes);
    element.tryState = {
      started: detector !== null, threaded: detector && detector.threaded, busy: looking, looks, ms,
      strokes: strokes.length, side: canvas.width, score: setting.score, chosen, detections: boxes,
    };
  }

  function tell(boxes) {
    const digits = boxes.length === 1 ? "1 digit found" : `${boxes.length || "No"} digits found`;
    heading.textContent = digits;
    sentence.textContent = `${found.length} answers score above .01 and survive suppression; ` +
      `the network took ${two(ms / 1000)} s${detector.threaded ? "" : ", in the page's own thread"}.`;
    const had = list.contains(document.activeElement) && [...list.children].indexOf(document.activeElement);
    list.replaceChildren(...boxes.slice(0, 12).map((each) => {
      const entry = button(`${each.name} (${two(each.score)})`, () => {
        chosen = each === chosen ? null : each;
        update();
      });
      entry.setAttribute("aria-pressed", each === chosen);
      return entry;
    }));
    if (had !== false && list.children.length) list.children[Math.min(had, list.children.length - 1)].focus();
    detail.replaceChildren(...(chosen ? explain(chosen) : [make("p", { class: "try-hint" }, boxes.length
      ? "Choose an answer above, or click a box, to see which prior gave it."
      : "Draw a digit as high as a third of the picture, or let one be sprayed.")]));
    say(`${digits}. ${boxes.slice(0, 12).map((each) => `${each.name}, score ${two(each.score)}`).join("; ")}`);
  }

  /** Which prior spoke, and everything that it said. */
  function explain({ prior, from, logits, scores, offsets, removed, name: digit }) {
    const [cx, cy, w, h] = from.map((value) => two(value));
    const bars = scores.map((score, label) => make("tr", {},
      make("th", { scope: "row" }, label ? String(label - 1) : "nothing"), make("td", {}, logits[label].toFixed(1)),
      make("td", {}, two(score)), make("td", {}, make("i", { style: `width: ${4 * score}rem` }))));
    const signed = offsets.map((value) => (value < 0 ? "−" : "+") + two(Math.abs(value)));
    return [
      make("p", {}, `Prior ${prior} (dashed) said ${digit}. Its centre is at (${cx}, ${cy}); it is ${w} wide and ${h} high. ` +
        `Its offsets: right ${signed[0]}, down ${signed[1]}, wider ${signed[2]}, higher ${signed[3]}. ` +
        `Suppression removed ${removed.length || "no"} other ${removed.length === 1 ? "answer" : "answers"} (dotted) in its favour.`),
      make("table", { class: "try-said" }, make("tr", {}, ...["what is in it?", "logit", "score"].map((text) =>
        make("th", { scope: "col" }, text)), make("td")), ...bars),
    ];
  }

  await show("scene 0");
});
