/** Who learns this box? SSD300's 8732 priors, and those that learn one object or two. */
AnnotatedSSD.define("priors", async (element) => {
  "use strict";
  const { load, dataset, make, outline, stage, movable, how, slider, choice, button } =
    AnnotatedSSD;
  // A chapter may ask for another photograph, start, preset or number of boxes.
  const { photo = "astronaut", object = "head", preset = "paper", boxes: count } = element.dataset;
  const wanted = [dataset(photo), dataset("presets"), load("maths.js")];
  const [{ image, alt, objects: places }, presets] = await Promise.all(wanted);
  const { makePriors, match, toCorners } = AnnotatedSSD.maths;
  const SIDE = 300; // SSD300 sees every photograph at 300 × 300 pixels
  const NAMES = ["A", "B"];
  const setting = { preset, threshold: 0.5, method: "bipartite" };
  let priors, sides, ends; // as corners; of the maps, in cells; where each map's priors end

  const on = stage(SIDE, image, alt);
  const heading = make("p", { class: "try-big" });
  const table = make("table");
  const verdict = make("p");
  const objects = [movable(on, { name: "A", kind: "truth", box: places[object], change: draw })];

  const change = (name) => (value) => { setting[name] = value; draw(); };
  const second = button("", () => {
    if (objects.length === 1) add();
    else objects.pop().element.remove();
    draw();
  });
  const rule = choice({
    label: "First prior", value: "bipartite", change: change("method"),
    options: { bipartite: "bipartite (Caffe)", argmax: "argmax (torchvision)" },
  });
  const options = Object.fromEntries(Object.keys(presets).map((name) => [name, name]));
  const published = choice({ label: "Priors", value: preset, change: use, options });
  const threshold = slider({
    label: "Threshold", min: 0.2, max: 0.9, step: 0.01, value: 0.5,
    format: (value) => value.toFixed(2), change: change("threshold"),
  });
  const around = Object.entries(places)
    .map(([name, box]) => button(name, () => { objects[0].put(box); draw(); }));

  element.append(
    make("p", { class: "try-title" }, "Stretch the box, and see which priors learn it"),
    make("div", { class: "try-controls" }, "Put box A around:", ...around, second),
    make("div", { class: "try-controls" }, published, threshold, rule),
    make("div", { class: "try-columns" }, on.element, make("div", {}, heading, table, verdict)),
    make("p", { class: "try-hint" }, how, "Blue: the priors that learn the box, dashed for B. " +
      "Thick: by force, below the threshold. Shrink the box until nobody is taught but by force; " +
      "then add a second one and try argmax: who loses?"));
  const say = AnnotatedSSD.announcer(element);

  /** The rival: nearly in the same place, so that both want the same prior. */
  function add() {
    const [x0, y0, x1, y1] = objects[0].box;
    const by = x1 + 3 > SIDE ? -3 : 3;
    const box = [x0 + by, y0, x1 + by, y1];
    objects.push(movable(on, { name: "B", kind: "truth try-second", box, change: draw }));
  }

  function use(name) {
    const spec = presets[name];
    setting.preset = name;
    sides = spec.feature_maps;
    let end = 0;
    ends = sides.map((n, map) => (end += n * n * (2 + 2 * spec.aspect_pairs[map].length)));
    priors = makePriors(spec).map(toCorners);
    draw();
  }

  const mapOf = (prior) => ends.findIndex((end) => prior < end);

  function draw() {
    const boxes = objects.map(({ box }) => box.map((v) => v / SIDE));
    const found = match(priors, boxes, setting.threshold, setting.method);
    const learners = boxes.map(() => []);
    found.matches.forEach((winner, prior) => { if (winner >= 0) learners[winner].push(prior); });
    const perMap = learners.map((own) =>
      sides.map((_, map) => own.filter((prior) => mapOf(prior) === map).length));
    const counts = learners.map((own) => own.length);
    const best = found.best.map((prior, k) => found.overlaps[k][prior]);

    on.drawing.replaceChildren(...learners.flatMap((own, k) => own.map((prior) => {
      const forced = found.overlaps[k][prior] < setting.threshold ? " try-forced" : "";
      const corners = priors[prior].map((v) => v * SIDE);
      return outline(corners, `try-prior${k ? " try-second" : ""}${forced}`);
    })));
    table.replaceChildren(
      row("th", "map", ...sides.map((side) => `${side}²`), "all", "best IoU"),
      ...boxes.map((_, k) => row("td", NAMES[k], ...perMap[k], counts[k], best[k].toFixed(2))));
    const two = boxes.length === 2;
    rule.hidden = !two; // they agree on one box
    second.textContent = two ? "Remove box B" : "Add a second box";
    const told = counts.map((n) => `${n} ${n === 1 ? "prior" : "priors"}`);
    heading.textContent = two ? `A: ${told[0]}, B: ${told[1]}` : told[0];
    verdict.textContent = two ? quarrel(found, counts) : alone(counts[0], best[0]);
    element.tryState = { ...setting, boxes, matches: found.matches, perMap, counts, best };
    say(`${heading.textContent}. ${verdict.textContent}`);
  }

  /** A row of the table; its first cell is a heading anyway. */
  function row(tag, ...cells) {
    return make("tr", {}, ...cells.map((cell, k) => make(k ? tag : "th", {}, String(cell))));
  }

  function alone(learners, best) {
    if (learners && best < setting.threshold) return "It has one prior, by force, that fits badly.";
    return `Of ${priors.length} priors ${learners} learn this box. The others learn background.`;
  }

  /** Who loses, where two objects want the same prior? */
  function quarrel({ best: [prior, other], overlaps, matches }, counts) {
    if (prior !== other) return "The two want different priors, so both rules agree.";
    const side = sides[mapOf(prior)];
    const order = matches[prior] ? [1, 0] : [0, 1]; // the winner first
    const [win, lose] = order.map((k) => `${NAMES[k]} (${overlaps[k][prior].toFixed(2)})`);
    const why = setting.method === "argmax" ? "comes later" : "overlaps it more";
    const left = counts[order[1]] ? "has to take others" : "loses: nobody learns it";
    return `Both want the same prior, on the ${side} × ${side} map. ` +
      `${win} gets it, because it ${why}; ${lose} ${left}.`;
  }

  if (count === "2") add();
  use(preset);
});
