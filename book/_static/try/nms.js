/** Who silences whom? What the shipped network said about three walls, and greedy suppression. */
AnnotatedSSD.define("nms", async (element) => {
  "use strict";
  const { load, dataset, make, svg, stage, slider, choice, button, announcer } = AnnotatedSSD;
  const [{ class_names: names, scenes }] = await Promise.all([dataset("scenes"), load("maths.js")]);
  const { suppress } = AnnotatedSSD.maths;
  const SIDE = 256;
  const setting = { scene: Object.keys(scenes)[0], score: 0.3, overlap: 0.45, together: false };
  let now; // the answers above the score threshold, and the steps that suppression takes
  let position = 0; // steps taken; Infinity: all there are

  const picture = make("div");
  const heading = make("p", { class: "try-big" });
  const sentence = make("p");
  const two = (value) => value.toFixed(2);
  const change = (name) => (value) => { setting[name] = value; compute(); };
  const go = (where) => () => { position = where(); show(); };
  const [restart, previous, next, end] = [
    button("Restart", go(() => 0)), button("Previous", go(() => position - 1)),
    button("Next", go(() => position + 1)), button("All", go(() => Infinity))];

  element.append(
    make("div", { class: "try-controls" },
      choice({
        label: "Scene", value: setting.scene, change: change("scene"),
        options: Object.fromEntries(Object.keys(scenes).map((name) => [name, name])),
      }),
      choice({
        label: "Suppress", value: "no", change: (value) => change("together")(value === "yes"),
        options: { no: "class by class", yes: "all classes together" },
      })),
    make("div", { class: "try-controls" },
      slider({ label: "Score above", min: 0.01, max: 0.95, step: 0.01, value: 0.3, format: two, change: change("score") }),
      slider({ label: "IoU above", min: 0, max: 1, step: 0.01, value: 0.45, format: two, change: change("overlap") })),
    make("div", { class: "try-columns" }, picture, make("div", {}, heading, sentence,
      make("div", { class: "try-controls", role: "group", "aria-label": "Steps" }, restart, previous, next, end),
      make("p", { class: "try-hint" }, "Thick: kept in this step. Dashed: struck out by it. Pale: still waiting. Solid, with a name: kept."))));
  const say = announcer(element);

  /** Which answers take part, best first, by their index in the data. */
  function candidates({ scores, labels, priors }) {
    const floor = Math.fround(setting.score); // the network's scores are in single precision
    const seen = new Set();
    return [...labels.keys()].filter((index) => {
      if (Math.fround(scores[index][0]) <= floor) return false;
      // All together, a prior speaks for its best class only: the first of its answers.
      const first = !seen.has(priors[index]);
      seen.add(priors[index]);
      return first || !setting.together;
    });
  }

  function compute() {
    const scene = scenes[setting.scene];
    const chosen = candidates(scene);
    const boxes = chosen.map((index) => scene.boxes[index].map(Math.fround));
    const heaps = chosen.map((index) => (setting.together ? 0 : scene.labels[index]));
    const steps = suppress(boxes, heaps, setting.overlap).map(({ kept, struck }) =>
      ({ kept: chosen[kept], struck: struck.map((index) => chosen[index]) }));
    const alt = `A photograph with ${scene.truth.length} painted digits.`;
    const on = stage(SIDE, SIDE, scene.image, alt);
    picture.replaceChildren(on.element);
    now = { scene, chosen, steps, drawing: on.drawing };
    show();
  }

  const title = (index) => `${names[now.scene.labels[index]]} (${two(now.scene.scores[index][0])})`;

  function outline(index, kind) {
    const [x0, y0, x1, y1] = now.scene.boxes[index].map((v) => v * SIDE);
    const rect = svg("rect", { class: `try-answer ${kind}`, x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
    if (!kind.includes("try-kept")) return [rect];
    const y = y0 > 12 ? y0 - 3 : y0 + 11; // above the box, or inside where the picture ends
    return [rect, svg("text", { class: "try-tag", x: Math.min(Math.max(x0, 1), 205), y }, title(index))];
  }

  function show() {
    const { chosen, steps } = now;
    position = Math.min(Math.max(position, 0), steps.length);
    const taken = steps.slice(0, position);
    const kept = taken.map((step) => step.kept);
    const gone = new Set(taken.flatMap((step) => [step.kept, ...step.struck]));
    const waiting = chosen.filter((index) => !gone.has(index));
    const last = taken.at(-1);
    // Once all is done the last step is no longer of interest, only what is left.
    const stepping = position > 0 && position < steps.length;
    now.drawing.replaceChildren(
      ...waiting.flatMap((index) => outline(index, position ? "try-waiting" : "")),
      ...(stepping ? last.struck : []).flatMap((index) => outline(index, "try-struck")),
      ...kept.flatMap((index) => outline(index, `try-kept${stepping && index === last.kept ? " try-now" : ""}`)));
    heading.textContent = `${chosen.length} answers, ${steps.length} survive`;
    sentence.textContent = tell(last, waiting.length);
    restart.disabled = previous.disabled = position === 0;
    next.disabled = end.disabled = position === steps.length;
    element.tryState = {
      ...setting, position, candidates: chosen, kept, waiting, struck: last ? last.struck : [],
      survivors: steps.map((step) => step.kept),
    };
    say(`${heading.textContent}. ${sentence.textContent}`);
  }

  function tell(last, waiting) {
    const { steps } = now;
    if (!last) return `Before suppression all ${now.chosen.length} answers wait.`;
    if (position === steps.length) {
      const digits = steps.slice(0, 8).map((step) => title(step.kept)).join(", ");
      return `Kept, best first: ${digits}${steps.length > 8 ? ", …" : ""}.`;
    }
    const out = last.struck.length;
    return `Step ${position} of ${steps.length}: keep ${title(last.kept)}, the best that waits. ` +
      `It strikes out ${out === 0 ? "nobody" : out}${out ? `, such as ${title(last.struck[0])}` : ""}. ${waiting} still wait.`;
  }

  compute();
});
