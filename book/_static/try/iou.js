/** How wrong is four pixels? Two boxes, the areas they share and cover, and IoU over the shift. */
AnnotatedSSD.define("iou", async (element, {
  dataset, clamp, two, make, block, line, outline, chart, stage, movable, how, button, areas, iou,
}, { heading, sentence, report }) => {
  const { image, alt, objects } = await dataset("astronaut");
  const SIDE = 300; // SSD300 sees every photograph at 300 × 300 pixels

  const on = stage(SIDE, make("img", { src: image, alt }));
  const box = objects.smile;
  const object = movable(on, { name: "object", kind: "truth", box, change: draw });
  const answer = movable(on, { name: "answer", kind: "detection", box, change: draw });
  const plot = chart("shift in this direction, pixels", "IoU");

  /** Frame a thing, the answer four pixels off, and look closer if it is small. */
  function choose(truth) {
    const [x0, y0, x1, y1] = truth;
    const side = clamp(2.6 * Math.max(x1 - x0, y1 - y0), 60, SIDE);
    const low = (a, b) => clamp((a + b - side) / 2, 0, SIDE - side);
    on.look(low(x0, x1), low(y0, y1), side);
    object.put(truth);
    answer.put(truth.map((v) => v + 4));
    draw();
  }

  element.append(
    line("title", "Move one of the boxes, and see what is left of their IoU"),
    block("controls", "Four pixels off:",
      ...Object.entries(objects).map(([name, truth]) => button(name, () => choose(truth)))),
    block("columns", on.element, make("div", {}, heading, sentence, plot.element)),
    line("hint", how,
      "All pixels are those of the 300 × 300 that SSD300 sees; small objects are magnified."));

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
    const end = [40, 80, 160, 320].find((limit) => far <= limit);
    const curve = Array.from({ length: 161 }, (_, k) => [k / 160, at((k / 160) * end)]);
    plot.draw({
      curve, dot: [far / end, at(far)], rows: [[0, 0], [0.5, "½"], [1, 1]],
      columns: [0, 0.25, 0.5, 0.75, 1].map((part) => [part, part * end]),
    });

    const off = shift.map((d) => Number(Math.abs(d).toFixed(1)));
    report({ object: a, answer: b, iou: value, shared, covered, far, at }, `IoU ${two(value)}`,
      `The boxes share ${Math.round(shared)} square pixels of the ${Math.round(covered)} that they ` +
      `cover. The answer is off by ${off[0]} px ${shift[0] < 0 ? "left" : "right"} and ` +
      `${off[1]} px ${shift[1] < 0 ? "up" : "down"}. By SSD's line at one half it ` +
      `${value >= 0.5 ? "is right" : "has missed"}.`);
  }

  choose(box);
});
