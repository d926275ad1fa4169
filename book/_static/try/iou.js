/** How wrong is four pixels? Two boxes, the areas they share and cover, and IoU over the shift. */
AnnotatedSSD.define("iou", async (element) => {
  "use strict";
  const { load, dataset, make, svg, stage, movable, button, announcer } = AnnotatedSSD;
  const [photograph] = await Promise.all([dataset("astronaut"), load("maths.js")]);
  const { areas, iou } = AnnotatedSSD.maths;
  const SIDE = 300; // SSD300 sees every photograph at 300 × 300 pixels

  const on = stage(SIDE, SIDE, photograph.image, photograph.alt);
  const regions = ["truth", "detection", "shared"].map((kind) => svg("rect", { class: `try-area-${kind}` }));
  on.drawing.append(...regions);
  const box = [0, 0, 9, 9]; // until an object is chosen, below
  const change = draw;
  const object = movable(on, { name: "object", kind: "truth", box, change });
  const guess = movable(on, { name: "answer", kind: "detection", box, change });

  const number = make("p", { class: "try-big" });
  const sentence = make("p");
  const [PLOT_W, PLOT_H] = [270, 150];
  const path = svg("path", { class: "try-curve" });
  const dot = svg("circle", { r: 6, class: "try-dot" });
  const drop = svg("path", { class: "try-drop" });
  const ticks = svg("g");
  const curve = svg("svg", { viewBox: "-30 -12 312 206", "aria-hidden": "true" },
    svg("path", { class: "try-axis", d: `M0 0V${PLOT_H}H${PLOT_W}` }),
    svg("path", { class: "try-half", d: `M0 ${PLOT_H / 2}H${PLOT_W}` }),
    ...[["1", 4], ["½", PLOT_H / 2 + 4], ["0", PLOT_H + 4]].map(([text, y]) =>
      svg("text", { x: -8, y, "text-anchor": "end" }, text)),
    svg("text", { x: PLOT_W / 2, y: PLOT_H + 36, "text-anchor": "middle" }, "shift in this direction, pixels"),
    svg("text", { x: 6, y: 0 }, "IoU"), ticks, drop, path, dot);

  /** Put the object around something, the answer four pixels off, and look closer if it is small. */
  function choose(truth) {
    const [x0, y0, x1, y1] = truth;
    const side = Math.min(SIDE, Math.max(60, 2.6 * Math.max(x1 - x0, y1 - y0)));
    const low = (a, b) => Math.min(Math.max(0, (a + b - side) / 2), SIDE - side);
    on.look(low(x0, x1), low(y0, y1), side, side);
    object.quiet(truth);
    guess.set(truth.map((v) => v + 4));
  }

  const chosen = Object.entries(photograph.objects)
    .map(([name, truth]) => button(name, () => choose(truth)));
  element.append(
    make("div", { class: "try-controls" }, "Four pixels off:", ...chosen),
    make("div", { class: "try-columns" }, on.element, make("div", {}, number, sentence, curve)),
    make("p", { class: "try-hint" }, "Drag the boxes or their corners, or use the arrow keys, with Shift to resize. " +
      "All pixels are those of the 300 × 300 that SSD300 sees; small objects are magnified."));
  const say = announcer(element);

  /** The shift between the centres: how far, by the longer of its two parts, and which way. */
  function shift() {
    const [dx, dy] = [0, 1].map((axis) =>
      (guess.box[axis] + guess.box[axis + 2] - object.box[axis] - object.box[axis + 2]) / 2);
    const far = Math.max(Math.abs(dx), Math.abs(dy));
    return { dx, dy, far, way: far > 0 ? [dx / far, dy / far] : [1, 1] };
  }

  function place(rect, [x0, y0, x1, y1]) {
    const sides = { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0) };
    for (const [name, value] of Object.entries(sides)) rect.setAttribute(name, value);
  }

  function draw() {
    const [a, b] = [object.box, guess.box];
    const { shared, covered } = areas(a, b);
    const value = iou(a, b);
    const { dx, dy, far, way } = shift();
    [a, b, [0, 1, 2, 3].map((k) => (k < 2 ? Math.max : Math.min)(a[k], b[k]))]
      .forEach((box, k) => place(regions[k], box));
    number.textContent = `IoU ${value.toFixed(2)}`;
    const [right, down] = [dx, dy].map((d) => Number(Math.abs(d).toFixed(1)));
    sentence.textContent = `The boxes share ${Math.round(shared)} square pixels of the ` +
      `${Math.round(covered)} that they cover. The answer is off by ${right} px to the ` +
      `${dx < 0 ? "left" : "right"} and ${down} px ${dy < 0 ? "up" : "down"}. ` +
      `At a threshold of one half it counts as ${value >= 0.5 ? "right" : "missed"}.`;

    // The same two boxes with their centres `d` pixels apart in the present direction.
    const at = (d) => iou(a, b.map((v, k) => v + (d * way[k % 2] - [dx, dy][k % 2])));
    const end = [40, 80, 160, 320].find((limit) => far <= limit);
    const point = (d) => `${((d * PLOT_W) / end).toFixed(1)} ${(PLOT_H * (1 - at(d))).toFixed(1)}`;
    path.setAttribute("d", `M${Array.from({ length: 161 }, (_, k) => point((k * end) / 160)).join("L")}`);
    const [x, y] = point(far).split(" ");
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
    drop.setAttribute("d", `M${x} ${y}V${PLOT_H}`);
    ticks.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((part) =>
      svg("text", { x: part * PLOT_W, y: PLOT_H + 17, "text-anchor": "middle" }, String(part * end))));
    element.tryState = { object: a, answer: b, iou: value, shared, covered, shift: [dx, dy], far, at };
    say(`IoU ${value.toFixed(2)}`);
  }
  choose(photograph.objects.smile);
});
