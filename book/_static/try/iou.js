/** How wrong is four pixels? Two boxes, the areas they share and cover, and IoU over the shift. */
AnnotatedSSD.define("iou", async (element) => {
  "use strict";
  const { load, dataset, make, svg, outline, stage, movable, how, button } = AnnotatedSSD;
  const [photograph] = await Promise.all([dataset("astronaut"), load("maths.js")]);
  const { areas, iou } = AnnotatedSSD.maths;
  const SIDE = 300; // SSD300 sees every photograph at 300 × 300 pixels
  const [WIDTH, HEIGHT] = [270, 150]; // of the plot

  const on = stage(SIDE, photograph.image, photograph.alt);
  const box = [0, 0, 9, 9]; // until an object is chosen, below
  const object = movable(on, { name: "object", kind: "truth", box, change: draw });
  const answer = movable(on, { name: "answer", kind: "detection", box, change: draw });

  const number = make("p", { class: "try-big" });
  const sentence = make("p");
  const path = svg("path", { class: "try-curve" });
  const dot = svg("circle", { r: 6, class: "try-dot" });
  const drop = svg("path", { class: "try-axis" });
  const ticks = svg("g");
  const word = (x, y, text, anchor = "middle") =>
    svg("text", { x, y, "text-anchor": anchor }, String(text));
  const plot = svg("svg", { viewBox: "-30 -14 314 208", "aria-hidden": "true" },
    svg("path", { class: "try-axis", d: `M0 0V${HEIGHT}H${WIDTH}` }),
    svg("path", { class: "try-axis try-half", d: `M0 ${HEIGHT / 2}H${WIDTH}` }),
    word(-8, 5, 1, "end"), word(-8, HEIGHT / 2 + 5, "½", "end"), word(-8, HEIGHT + 5, 0, "end"),
    word(8, 2, "IoU", "start"), word(WIDTH / 2, HEIGHT + 38, "shift in this direction, pixels"),
    ticks, drop, path, dot);

  /** Frame a thing, the answer four pixels off, and look closer if it is small. */
  function choose(truth) {
    const [x0, y0, x1, y1] = truth;
    const side = Math.min(SIDE, Math.max(60, 2.6 * Math.max(x1 - x0, y1 - y0)));
    const low = (a, b) => Math.min(Math.max(0, (a + b - side) / 2), SIDE - side);
    on.look(low(x0, x1), low(y0, y1), side);
    object.put(truth);
    answer.put(truth.map((v) => v + 4));
    draw();
  }

  const things = Object.entries(photograph.objects)
    .map(([name, truth]) => button(name, () => choose(truth)));
  element.append(
    make("p", { class: "try-title" }, "Move one of the boxes, and see what is left of their IoU"),
    make("div", { class: "try-controls" }, "Four pixels off:", ...things),
    make("div", { class: "try-columns" }, on.element, make("div", {}, number, sentence, plot)),
    make("p", { class: "try-hint" }, how,
      "All pixels are those of the 300 × 300 that SSD300 sees; small objects are magnified."));
  const say = AnnotatedSSD.announcer(element);

  function draw() {
    const [a, b] = [object.box, answer.box];
    const { shared, covered } = areas(a, b);
    const value = iou(a, b);
    const both = a.map((v, k) => (k < 2 ? Math.max(v, b[k]) : Math.min(v, b[k])));
    on.drawing.replaceChildren(outline(a, "try-area-truth"), outline(b, "try-area-detection"),
      outline(both, "try-area-shared"));

    // How far apart the centres are, and which way; straight down the diagonal if not at all.
    const shift = [0, 1].map((k) => (b[k] + b[k + 2] - a[k] - a[k + 2]) / 2);
    const far = Math.max(...shift.map(Math.abs));
    const way = far > 0 ? shift.map((d) => d / far) : [1, 1];
    // The IoU of the same two boxes, `d` pixels apart in this direction.
    const at = (d) => iou(a, b.map((v, k) => v + d * way[k % 2] - shift[k % 2]));

    const off = shift.map((d) => Number(Math.abs(d).toFixed(1)));
    number.textContent = `IoU ${value.toFixed(2)}`;
    sentence.textContent = `The boxes share ${Math.round(shared)} square pixels of the ` +
      `${Math.round(covered)} that they cover. The answer is off by ` +
      `${off[0]} px ${shift[0] < 0 ? "left" : "right"} and ${off[1]} px ` +
      `${shift[1] < 0 ? "up" : "down"}. By SSD's line at one half it ` +
      `${value >= 0.5 ? "is right" : "has missed"}.`;
    drawCurve(at, far);
    element.tryState = { object: a, answer: b, iou: value, shared, covered, shift, far, at };
    say(number.textContent);
  }

  function drawCurve(at, far) {
    const end = [40, 80, 160, 320].find((limit) => far <= limit);
    const point = (d) => [(d * WIDTH) / end, HEIGHT * (1 - at(d))].map((v) => v.toFixed(1));
    const points = Array.from({ length: 161 }, (_, k) => point((k * end) / 160).join(" "));
    const [x, y] = point(far);
    path.setAttribute("d", `M${points.join("L")}`);
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
    drop.setAttribute("d", `M${x} ${y}V${HEIGHT}`);
    ticks.replaceChildren(...[0, 1, 2, 3, 4].map((k) =>
      word((k * WIDTH) / 4, HEIGHT + 18, (k * end) / 4)));
  }

  choose(photograph.objects.smile);
});
