/** The detector itself: draw digits on a photograph, and the shipped network finds them. */
AnnotatedSSD.define("detector", async (element, {
  load, dataset, two, make, block, line, row, outline, tag, stage, slider, choice, button, toCorners,
}, { heading, sentence, report }) => {
  const { pictures, paints, digits, preview, hint } = await dataset("pictures");
  const SIDE = 256; // pixels of a picture at most; the network shrinks it to its own 128
  const OWN = "your own"; // in the list of pictures
  let lowest = 0.5, can = "yellow", brush = 0.08; // a score; a paint; a width
  let detector = null, found = [], chosen = null; // the detection that is explained
  let strokes = [], sprayed = 0;
  let wishes = 0, stop = null; // for a picture: only the last one counts; turns the camera off
  let looks = 0, looking = false, again = false, ms = 0;

  // --- elements ---

  const canvas = make("canvas", { role: "img", "aria-label": pictures[0].name });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const background = make("canvas").getContext("2d"); // the picture without the strokes
  const { element: wall, drawing } = stage(SIDE, canvas);
  const start = button("Start the detector (2.4 MB)", begin);
  const notice = make("p", { role: "alert" });
  const list = make("div",
    { class: "try-controls", role: "group", "aria-label": "Answers, best first" });
  const detail = make("div");
  const file = make("input", {
    type: "file", accept: "image/*", hidden: "", onchange: () => open(file.files[0]),
  });
  const picture = choice({
    label: "Picture", options: [...pictures.map(({ name }) => name), OWN],
    change: (wanted) => show(pictures.find(({ name }) => name === wanted)),
  });
  const select = picture.control;
  select.lastElementChild.hidden = true; // what was opened has a name, but is no choice
  const film = button("Camera", () => (stop ? want() : shoot()));
  film.hidden = !navigator.mediaDevices?.getUserMedia;
  const cans = Object.entries(paints).map(([name, colour]) => make("input", {
    type: "radio", name: "try-paint", "aria-label": name, title: name,
    style: `background: ${colour}`, onchange: () => { can = name; },
    ...(name === can && { checked: "" }),
  }));
  wall.append(start);
  element.append(
    block("controls", picture, button("Open a picture", () => file.click()), file, film), notice,
    block("columns",
      make("div", {}, wall, block("controls",
        make("div", { class: "try-paints", role: "radiogroup", "aria-label": "Paint" }, ...cans),
        slider({
          label: "Brush", min: 0.03, max: 0.15, value: brush,
          format: (width) => `${Math.round(100 * width)}%`, change: (width) => { brush = width; },
        }),
        block("paints", button("Undo", () => repaint(strokes.slice(0, -1))),
          button("Clear", () => repaint([])), button("Spray one for me", spray))),
      line("hint", hint)),
      make("div", {}, heading, sentence, slider({
        label: "Score above", min: 0.01, max: 0.95, value: lowest,
        change: (score) => { lowest = score; update(); },
      }), list, detail)));
  element.classList.add("try-idle"); // hides what is of no use yet

  // --- the pictures ---

  /** Another picture is wanted, or this one is to stay: the camera goes off. */
  function want() {
    if (stop) stop();
    stop = null;
    film.textContent = "Camera";
    notice.textContent = "";
    return ++wishes;
  }

  /** Put an image under the strokes: its middle square, at most SIDE pixels wide. */
  function put(image, width, height) {
    const square = Math.min(width, height), side = Math.min(square, SIDE);
    const [left, top] = [(width - square) / 2, (height - square) / 2];
    canvas.width = canvas.height = background.canvas.width = background.canvas.height = side;
    background.imageSmoothingQuality = "high";
    background.drawImage(image, left, top, square, square, 0, 0, side, side);
    repaint(strokes);
  }

  /** Begin with a new picture, of this name. */
  function renew(name) {
    canvas.setAttribute("aria-label", `${name}, to draw on`);
    [found, strokes] = [[], []];
  }

  async function show({ name, source }) {
    const wish = want();
    const image = make("img", { src: source });
    await image.decode();
    if (wish !== wishes) return;
    renew(name);
    put(image, image.naturalWidth, image.naturalHeight);
  }

  async function open(image) {
    if (!image) return;
    const address = URL.createObjectURL(image);
    try {
      await show({ name: image.name, source: address });
      select.value = OWN;
      if (!detector) start.click(); // it was dropped here to be looked at
    } catch {
      notice.textContent = `This browser cannot show ${image.name}.`;
    }
    URL.revokeObjectURL(address);
    file.value = ""; // the same file can be opened again
  }

  /** Show what the camera sees, until another picture is wanted. */
  async function shoot() {
    const wish = want();
    const video = make("video", { playsinline: "" });
    try {
      const wanted = { video: { facingMode: "environment" } };
      const stream = video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
      const off = () => stream.getTracks().forEach((track) => track.stop());
      if (wish !== wishes) return off();
      stop = off;
      await video.play();
      if (wish !== wishes) return;
    } catch ({ name, message }) {
      if (wish !== wishes) return;
      want();
      const reason = { NotAllowedError: "it is not allowed", NotFoundError: "there is none" }[name];
      notice.textContent = `No picture from a camera: ${reason || message}.`;
      return;
    }
    film.textContent = "Hold this picture";
    select.value = OWN;
    renew("What the camera sees");
    while (wish === wishes && video.srcObject.active) {
      if (!looking) put(video, video.videoWidth, video.videoHeight);
      await new Promise(requestAnimationFrame);
    }
  }

  // Nobody is filmed whose picture is out of sight.
  const rest = (unseen) => { if (unseen && stop) want(); };
  document.addEventListener("visibilitychange", () => rest(document.hidden));
  new IntersectionObserver(([{ isIntersecting }]) => rest(!isIntersecting)).observe(element);

  // --- strokes ---

  const stroke = (points) => ({ colour: paints[can], width: brush, points });

  function paint({ colour, width, points }) {
    const side = canvas.width;
    const round = { lineCap: "round", lineJoin: "round" };
    Object.assign(context, { strokeStyle: colour, lineWidth: width * side, ...round });
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(x * side, y * side));
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
    const lines = digits[(7 + 3 * sprayed) % 10].map((points) =>
      stroke(points.map(([x, y]) => [left + wide * x, top + high * y])));
    sprayed += 1;
    repaint([...strokes, ...lines]);
  }

  canvas.onpointerdown = (event) => {
    if (event.button > 0 || !detector) return;
    event.preventDefault(); // no selection of text
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const place = ({ clientX, clientY }) => [(clientX - left) / width, (clientY - top) / height];
    const first = place(event), drawn = stroke([first]);
    canvas.setPointerCapture(event.pointerId);
    canvas.onpointermove = (now) => {
      const [x, y] = place(now);
      if (strokes.at(-1) !== drawn) {
        // What moves by less than three pixels of a phone is a click.
        if (Math.hypot(x - first[0], y - first[1]) < 0.01) return;
        strokes.push(drawn);
      }
      drawn.points.push([x, y]);
      paint(drawn);
      look();
    };
    canvas.onpointerup = canvas.onpointercancel = () => {
      canvas.onpointermove = canvas.onpointerup = canvas.onpointercancel = null;
      if (strokes.at(-1) !== drawn) explainAt(first);
    };
  };

  element.ondragover = (event) => event.preventDefault();
  element.ondrop = (event) => {
    event.preventDefault();
    open(event.dataTransfer.files[0]);
  };

  // --- the detector ---

  async function begin() {
    start.disabled = true;
    start.textContent = "Loading …";
    try {
      const [weights] = await Promise.all([dataset("weights"), load("network.js")]);
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
    if (!detector) return update();
    if (looking) return;
    looking = element.tryState.busy = true;
    while (again) {
      again = false;
      const { width, height } = canvas;
      ({ found, ms } = await detector.detect(context.getImageData(0, 0, width, height)));
      looks += 1;
      // What is explained may be there still.
      chosen = chosen &&
        found.find((each) => each.prior === chosen.prior && each.label === chosen.label);
      looking = again;
      update();
    }
  }

  const title = ({ name, score }) => `${name} (${two(score)})`;

  function choose(detection) {
    chosen = detection === chosen ? null : detection;
    update();
  }

  /** A click: the smallest box around it explains itself. */
  function explainAt([x, y]) {
    const area = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
    const around = element.tryState.detections.filter(({ box: [left, top, right, bottom] }) =>
      x > left && y > top && x < right && y < bottom);
    choose(around.sort((a, b) => area(a) - area(b))[0]);
  }

  function update() {
    const detections = found.filter((each) => each.score > lowest);
    const draw = (boxes, kind) => boxes.map((box) => outline(box, kind, SIDE));
    drawing.replaceChildren(
      ...draw(chosen ? chosen.removed.map(({ box }) => box) : [], "try-answer try-waiting"),
      ...detections.map((each) =>
        outline(each.box, `try-answer try-${each === chosen ? "now" : "kept"}`, SIDE)),
      ...draw(chosen ? [toCorners(chosen.from)] : [], "try-prior"),
      ...detections.map((each) => tag(each.box, title(each), SIDE)));
    report({
      threaded: detector?.threaded, busy: looking, looks, ms, chosen, detections,
      strokes: strokes.length,
    }, ...(detector ? tell(detections) : ["Draw a digit, and see it found",
      "The network runs on your own device, and no picture leaves it.", null]));
  }

  function tell(detections) {
    const count = detections.length;
    const first = detections.slice(0, 12);
    const focused = [...list.children].indexOf(document.activeElement);
    list.replaceChildren(...first.map((each) => {
      const entry = button(title(each), () => choose(each));
      entry.setAttribute("aria-pressed", each === chosen);
      return entry;
    }));
    if (focused >= 0) (list.children[focused] || select).focus();
    detail.replaceChildren(...(chosen ? explain(chosen) : [
      line("hint", "Choose an answer, or click its box, to see which prior gave it.")]));
    return [count === 1 ? "1 digit found" : `${count || "No"} digits found`,
      `The network took ${two(ms / 1000)} s. ${found.length} answers above .01 survive suppression.`,
      first.map(title).join(", ")];
  }

  /** Which prior spoke, and everything that it said. */
  function explain({ prior, from, logits, scores, offsets, removed, name, names }) {
    const [cx, cy, w, h] = from.map(two);
    const minus = (text) => text.replace("-", "−");
    const [right, down, wider, higher] =
      offsets.map((value) => (value < 0 ? "" : "+") + minus(two(value)));
    return [
      make("p", {}, `Prior ${prior} (dashed) said ${name}. Its centre is (${cx}, ${cy}); it is ` +
        `${w} wide and ${h} high. Its offsets: right ${right}, down ${down}, wider ${wider}, ` +
        `higher ${higher}. In favour of its answer, suppression removed ${removed.length} others ` +
        "(thin)."),
      make("table", { class: "try-said" }, row("th", "class", "logit", "score", ""),
        ...scores.map((score, label) => row("td", names[label], minus(logits[label].toFixed(1)),
          two(score), make("i", { style: `width: ${4 * score}rem` })))),
    ];
  }

  await show(pictures[0]);
  found = preview;
  update();
});
