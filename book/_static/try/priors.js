/** Who learns this box? SSD300's 8732 priors, one or two objects, and the priors that learn them. */
AnnotatedSSD.define("priors", async (element) => {
  "use strict";
  const { load, dataset, make, svg, stage, movable, slider, choice, button, announcer } = AnnotatedSSD;
  const { photo = "astronaut", preset = "paper", boxes: count = "1" } = element.dataset;
  const [photograph, presets] = await Promise.all([dataset(photo), dataset("presets"), load("maths.js")]);
  const { makePriors, match, toCorners } = AnnotatedSSD.maths;
  const SIDE = 300; // SSD300 sees every photograph at 300 × 300 pixels
  const NAMES = ["A", "B"];
  const setting = { threshold: 0.5, method: "bipartite" };
  let priors;
  let ends; // of each map's priors, in the list of all
  let sides; // of the maps, in cells

  const on = stage(SIDE, SIDE, photograph.image, photograph.alt);
  const lines = svg("g");
  on.drawing.append(lines);
  const result = make("p", { class: "try-big" });
  const table = make("table");
  const verdict = make("p");
  const [first] = Object.values(photograph.objects);
  const objects = [movable(on, { name: "A", kind: "truth", box: first, change: draw })];

  const second = button("", () => {
    if (objects.length === 1) add();
    else objects.pop().element.remove();
    draw();
  });
  const rule = choice({
    label: "First prior", value: "bipartite", change: (value) => { setting.method = value; draw(); },
    options: { bipartite: "bipartite (Caffe)", argmax: "argmax (torchvision)" },
  });

  /** The rival: nearly in the same place, so that both want the same prior. */
  function add() {
    const [x0, y0, x1, y1] = objects[0].box;
    const by = x1 + 6 > SIDE ? -6 : 6;
    const box = [x0 + by, y0, x1 + by, y1];
    const rival = movable(on, { name: "B", kind: "truth", box, change: draw });
    rival.element.classList.add("try-second");
    objects.push(rival);
  }

  function use(name) {
    const spec = presets[name];
    sides = spec.feature_maps;
    let end = 0;
    ends = sides.map((side, map) => (end += side * side * (2 + 2 * spec.aspect_pairs[map].length)));
    priors = makePriors(spec).map(toCorners);
  }

  const mapOf = (prior) => ends.findIndex((end) => prior < end);

  element.append(
    make("div", { class: "try-controls" }, "Put box A around:",
      ...Object.entries(photograph.objects).map(([name, box]) => button(name, () => objects[0].set(box))),
      second),
    make("div", { class: "try-controls" },
      choice({
        label: "Priors", value: preset, change: (name) => { use(name); draw(); },
        options: { paper: "the paper", "caffe-voc": "VOC (Caffe)", "caffe-coco": "COCO (Caffe)", torchvision: "torchvision" },
      }),
      slider({
        label: "Threshold", min: 0.2, max: 0.9, step: 0.01, value: 0.5,
        format: (value) => value.toFixed(2), change: (value) => { setting.threshold = value; draw(); },
      }), rule),
    make("div", { class: "try-columns" }, on.element, make("div", {}, result,
      make("div", { class: "try-scroll" }, table), verdict)),
    make("p", { class: "try-hint" }, "Blue: the priors that learn the box; dashed: those of B. Thick: the one that learns it although their IoU is below the threshold. Shrink the box, and see who is left."));
  const say = announcer(element);

  function draw() {
    const boxes = objects.map(({ box }) => box.map((v) => v / SIDE));
    const found = match(priors, boxes, setting.threshold, setting.method);
    const learners = boxes.map((_, object) => [...found.matches.keys()].filter((i) => found.matches[i] === object));
    const perMap = learners.map((own) => sides.map((_, map) => own.filter((i) => mapOf(i) === map).length));
    const best = found.best.map((prior, object) => found.overlaps[object][prior]);

    lines.replaceChildren(...learners.flatMap((own, object) => own.map((prior) => {
      const [x0, y0, x1, y1] = priors[prior].map((v) => v * SIDE);
      const forced = found.overlaps[object][prior] < setting.threshold;
      const kind = `try-prior${object ? " try-second" : ""}${forced ? " try-forced" : ""}`;
      return svg("rect", { class: kind, x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
    })));
    second.textContent = objects.length === 1 ? "Add a second box" : "Remove box B";
    rule.hidden = objects.length === 1;
    table.replaceChildren(
      row("th", "map", ...sides.map((side) => `${side}²`), "all", "best IoU"),
      ...boxes.map((_, k) => row("td", NAMES[k], ...perMap[k], learners[k].length, best[k].toFixed(2))));
    const counts = learners.map((own) => own.length);
    const heading = counts.map((n, k) => `${boxes.length > 1 ? `${NAMES[k]}: ` : ""}${n} ${n === 1 ? "prior" : "priors"}`);
    result.textContent = heading.join(", ");
    verdict.textContent = boxes.length === 1 ? alone(counts[0], best[0]) : quarrel(found, counts);
    element.tryState = {
      ...setting, boxes, matches: found.matches, perMap, best, first: found.first, priors, counts,
    };
    say(`${result.textContent}. ${verdict.textContent}`);
  }

  function row(tag, head, ...cells) {
    return make("tr", {}, make("th", { scope: tag === "th" ? "col" : "row" }, head),
      ...cells.map((cell) => make(tag, tag === "th" ? { scope: "col" } : {}, String(cell))));
  }

  function alone(learn, best) {
    if (best >= setting.threshold) return `${learn} of ${priors.length} priors are told to find this box. All others are told nothing of it.`;
    if (learn) return "No prior reaches the threshold. The best one learns it by force, and fits badly.";
    return "It overlaps no prior: nobody learns it.";
  }

  /** Who loses where two objects want the same prior? */
  function quarrel({ best, first, overlaps, matches }, counts) {
    if (best[0] !== best[1]) return "The two want different priors, so both rules agree.";
    const side = sides[mapOf(best[0])];
    const winner = matches[best[0]];
    const [mine, other] = [winner, 1 - winner].map((k) => overlaps[k][best[0]].toFixed(2));
    const [win, lose] = [NAMES[winner], NAMES[1 - winner]];
    const why = setting.method === "argmax"
      ? `Argmax gives it to ${win}, which comes later in the list (${mine} against ${other}).`
      : `Bipartite matching gives it to ${win}, which overlaps it more (${mine} against ${other}), and ${lose} gets its next best.`;
    const left = counts[1 - winner] ? `${lose} has ${counts[1 - winner]} left.` : `${lose} is left with none: nobody learns it.`;
    return `Both want the same prior, on the ${side} × ${side} map. ${why} ${left}`;
  }

  if (count === "2") add();
  use(preset);
  draw();
});
