/** Who learns this box? SSD300's 8732 priors, and those that learn one object or two. */
AnnotatedSSD.define("priors", async (element, {
  dataset, clamp, two, make, block, line, row, outline, chart, stage, movable, how, slider, choice,
  button, iou, makePriors, match, toCorners,
}, { heading, sentence, report }) => {
  // A chapter may ask for another photograph, start, preset or number of boxes.
  const { photo = "astronaut", object = "head", preset = "paper", boxes: count } = element.dataset;
  const wanted = [photo, "presets"].map(dataset);
  const [{ image, alt, objects: places }, presets] = await Promise.all(wanted);
  const SIDE = 300; // SSD300 sees every photograph at 300 × 300 pixels
  const setting = { preset, threshold: 0.5, method: "bipartite" };
  let priors, sides, mapOf; // as corners; of the maps, in cells; the map of each prior
  let original, landscape; // box A before the slider scaled it; its learners in every size

  // The sizes of the landscape, on a logarithmic axis from 0 to 1.
  const SMALLEST = 4;
  const toSize = (place) => SMALLEST * (SIDE / SMALLEST) ** place;
  const toPlace = (size) => Math.log(size / SMALLEST) / Math.log(SIDE / SMALLEST);
  const sizeOf = ([x0, y0, x1, y1]) => Math.sqrt((x1 - x0) * (y1 - y0));

  const on = stage(SIDE, make("img", { src: image, alt }));
  const table = make("table");
  const plot = chart("√(width × height), pixels", "priors that learn it");
  const objects = [movable(on, { name: "A", kind: "truth", box: places[object], change: survey })];

  const second = button("", () => {
    if (objects.length === 1) add();
    else objects.pop().element.remove();
    draw();
  });
  const rule = choice({
    label: "First prior", options: ["bipartite (Caffe)", "argmax (torchvision)"],
    change: (rule) => { [setting.method] = rule.split(" "); draw(); },
  });
  const size = slider({
    label: "Size of A", min: 0, max: 1, value: 0, format: (at) => `${Math.round(toSize(at))} px`,
    change: (at) => { objects[0].put(scaled(toSize(at))); draw(); },
  });
  const sizes = make("div", {}, plot.element, size);

  element.append(
    line("title", "Shrink or stretch the box: who learns it?"),
    block("controls", "Put box A around:", ...Object.entries(places).map(([name, box]) =>
      button(name, () => { objects[0].put(box); survey(); })), second),
    block("controls",
      choice({ label: "Priors", options: Object.keys(presets), value: preset, change: use }),
      slider({
        label: "Threshold", min: 0.2, max: 0.9, value: 0.5,
        change: (value) => { setting.threshold = value; survey(); },
      }), rule),
    block("columns", on.element, make("div", {}, heading, table, sentence, sizes)),
    line("hint", how, "Blue: the priors that learn the box, dashed for B. Thick: by force, below " +
      "the threshold. Shrink the box until nobody is taught; then add a second one and try " +
      "argmax: who loses?"));

  /** The rival: nearly in the same place, so that both want the same prior. */
  function add() {
    const [x0, y0, x1, y1] = objects[0].box;
    const by = x1 + 3 > SIDE ? -3 : 3;
    const box = [x0 + by, y0, x1 + by, y1];
    objects.push(movable(on, { name: "B", kind: "truth try-second", box, change: draw }));
  }

  function use(name) {
    const { maps } = presets[name];
    setting.preset = name;
    sides = maps.map(({ side }) => side);
    mapOf = maps.flatMap(({ side, shapes }, map) => Array(side * side * shapes.length).fill(map));
    priors = makePriors(presets[name]).map(toCorners);
    survey();
  }

  const toFractions = (box) => box.map((v) => v / SIDE);

  /** Box A in another size: of the same shape, and about the same centre where it fits there. */
  function scaled(size) {
    const lengths = [0, 1].map((axis) => original[axis + 2] - original[axis]);
    const factor = Math.min(size / sizeOf(original), SIDE / Math.max(...lengths));
    const [width, height] = lengths.map((length) => factor * length);
    const [x, y] = [width, height].map((length, axis) =>
      clamp((original[axis] + original[axis + 2] - length) / 2, 0, SIDE - length));
    return [x, y, x + width, y + height];
  }

  /** How many priors reach the threshold with box A, in this and in other sizes? */
  function survey() {
    original = objects[0].box;
    const boxes = Array.from({ length: 61 }, (_, k) => scaled(toSize(k / 60)));
    landscape = [...boxes, original].map((box) => {
      const object = toFractions(box);
      const learners = priors.filter((prior) => iou(object, prior) >= setting.threshold).length;
      return { box, learners };
    }).sort((a, b) => sizeOf(a.box) - sizeOf(b.box));
    draw();
  }

  /** Draw the landscape; a heading and a sentence about a box without a rival. */
  function alone(best, count, told) {
    const learners = best < setting.threshold ? 0 : count;
    const most = Math.max(...landscape.map((each) => each.learners));
    const top = 2 * Math.max(2, Math.ceil(most / 2));
    const at = (each) => [toPlace(sizeOf(each.box)), each.learners / top];
    const first = landscape.find((each) => each.learners);
    const dot = at({ box: objects[0].box, learners });
    size.put(dot[0]);
    plot.draw({
      curve: [...landscape.map(at), [at(landscape.at(-1))[0], 0]], dot,
      columns: [...[5, 10, 20, 50, 100, 200].map((pixels) => [toPlace(pixels), pixels]),
        [first ? at(first)[0] / 2 : 0.5, "nobody", 8]],
      rows: [0, 0.5, 1].map((part) => [part, part * top]),
    });
    const needs = first ? `needs about ${Math.round(sizeOf(first.box))} px to be taught`
      : "is not taught in any size";
    return [learners ? told : "Nobody, but by force", (learners
      ? `Of ${priors.length} priors ${count} learn this box, the others learn background.`
      : `The best prior overlaps it by ${two(best)} only, and learns it by force.`) +
      ` Here a box of this shape ${needs}.`];
  }

  function draw() {
    const boxes = objects.map(({ box }) => toFractions(box));
    const { matches, overlaps, best } = match(priors, boxes, setting.threshold, setting.method);
    const learners = boxes.map(() => []);
    matches.forEach((winner, prior) => { if (winner >= 0) learners[winner].push(prior); });
    const perMap = learners.map((own) =>
      sides.map((_, map) => own.filter((prior) => mapOf[prior] === map).length));
    const counts = learners.map((own) => own.length);
    const most = best.map((prior, k) => overlaps[k][prior]);

    on.drawing.replaceChildren(...learners.flatMap((own, k) => own.map((prior) => {
      const forced = overlaps[k][prior] < setting.threshold ? " try-forced" : "";
      return outline(priors[prior], `try-prior${k ? " try-second" : ""}${forced}`, SIDE);
    })));
    table.replaceChildren(
      row("th", "map", ...sides.map((side) => `${side}²`), "all", "best IoU"),
      ...boxes.map((_, k) => row("td", "AB"[k], ...perMap[k], counts[k], two(most[k]))));
    const rivals = boxes.length === 2;
    rule.hidden = !rivals; // they agree on one box
    sizes.hidden = rivals;
    second.textContent = rivals ? "Remove box B" : "Add a second box";
    const told = counts.map((n) => `${n} ${n === 1 ? "prior" : "priors"}`);
    report({ ...setting, boxes, matches, perMap, counts, best: most, landscape }, ...(rivals
      ? [`A: ${told[0]}, B: ${told[1]}`, quarrel(best, overlaps, matches, counts)]
      : alone(most[0], counts[0], told[0])));
  }

  /** Who loses, where two objects want the same prior? */
  function quarrel([prior, other], overlaps, matches, counts) {
    if (prior !== other) return "The two want different priors, so both rules agree.";
    const side = sides[mapOf[prior]];
    const order = matches[prior] ? [1, 0] : [0, 1]; // the winner first
    const [win, lose] = order.map((k) => `${"AB"[k]} (${two(overlaps[k][prior])})`);
    const why = setting.method === "argmax" ? "comes later" : "overlaps it more";
    const left = counts[order[1]] ? "has to take others" : "loses: nobody learns it";
    return `Both want the same prior, on the ${side} × ${side} map. ` +
      `${win} gets it, because it ${why}; ${lose} ${left}.`;
  }

  if (count === "2") add();
  use(preset);
});
