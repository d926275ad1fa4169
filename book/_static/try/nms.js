/** Who silences whom? What the shipped network said about three walls, and greedy suppression. */
AnnotatedSSD.define("nms", async (element) => {
  "use strict";
  const { load, dataset, make, svg, outline, stage, slider, choice, button } = AnnotatedSSD;
  const wanted = [dataset("scenes"), load("maths.js")];
  const [{ class_names: names, scenes }] = await Promise.all(wanted);
  const { suppress } = AnnotatedSSD.maths;
  const SIDE = 256;
  const setting = { scene: Object.keys(scenes)[0], score: 0.3, overlap: 0.45, together: false };
  let now; // the scene, the answers that take part, and the steps of their suppression
  let position = 0; // steps taken; Infinity: all there are

  const picture = make("div");
  const heading = make("p", { class: "try-big" });
  const sentence = make("p");
  const two = (value) => value.toFixed(2);
  const change = (name) => (value) => { setting[name] = value; compute(); };
  const go = (where) => () => { position = where(); show(); };
  const [restart, previous, next, end] = [
    button("Restart", go(() => 0)), button("Previous", go(() => position - 1)),
    button("Next", go(() => position + 1)), button("To the end", go(() => Infinity)),
  ];
  const range = { step: 0.01, format: two };

  element.append(
    make("p", { class: "try-title" }, "Let the best answer silence the others, step by step"),
    make("div", { class: "try-controls" },
      choice({
        label: "Scene", value: setting.scene, change: change("scene"),
        options: Object.fromEntries(Object.keys(scenes).map((name) => [name, name])),
      }),
      choice({
        label: "Suppress", value: "no", change: (value) => change("together")(value === "yes"),
        options: { no: "class by class", yes: "all classes together" },
      }),
      slider({
        ...range, label: "Score above", min: 0.01, max: 0.95, value: 0.3, change: change("score"),
      }),
      slider({
        ...range, label: "IoU above", min: 0, max: 1, value: 0.45, change: change("overlap"),
      })),
    make("div", { class: "try-columns" }, picture, make("div", {}, heading,
      make("div", { class: "try-controls", role: "group", "aria-label": "Steps" },
        restart, previous, next, end),
      sentence,
      make("p", { class: "try-hint" }, "Thickest: kept in this step. Dashed: struck out by it. " +
        "Pale: waiting. With a name: kept."))));
  const say = AnnotatedSSD.announcer(element);

  /** The answers that take part, by their index in the data: best first. */
  function candidates({ scores, labels, priors }) {
    const floor = Math.fround(setting.score); // the network's scores are in single precision
    // All classes together, a prior speaks for its best one only: the first of its answers.
    return [...labels.keys()].filter((index) => Math.fround(scores[index]) > floor &&
      (!setting.together || priors.indexOf(priors[index]) === index));
  }

  function compute() {
    const scene = scenes[setting.scene];
    const chosen = candidates(scene);
    const boxes = chosen.map((index) => scene.boxes[index].map(Math.fround));
    const heaps = chosen.map((index) => (setting.together ? 0 : scene.labels[index]));
    const steps = suppress(boxes, heaps, setting.overlap).map(({ kept, struck }) =>
      ({ kept: chosen[kept], struck: struck.map((index) => chosen[index]) }));
    const alt = `A photograph with ${scene.truth.length} painted digits.`;
    const on = stage(SIDE, scene.image, alt);
    picture.replaceChildren(on.element);
    now = { scene, chosen, steps, drawing: on.drawing };
    show();
  }

  const title = (index) => `${names[now.scene.labels[index]]} (${two(now.scene.scores[index])})`;

  const inPixels = (index) => now.scene.boxes[index].map((v) => v * SIDE);
  const draw = (some, kind) => some.map((index) => outline(inPixels(index), `try-answer ${kind}`));

  /** A name stands above its box, or inside where the picture ends. */
  function tag(index) {
    const [x, y] = inPixels(index);
    const place = { x: Math.min(Math.max(x, 1), 205), y: y > 12 ? y - 3 : y + 11 };
    return svg("text", { class: "try-tag", ...place }, title(index));
  }

  function show() {
    const { chosen, steps, drawing } = now;
    position = Math.min(Math.max(position, 0), steps.length);
    const taken = steps.slice(0, position);
    const kept = taken.map((step) => step.kept);
    const gone = new Set(taken.flatMap((step) => [step.kept, ...step.struck]));
    const waiting = chosen.filter((index) => !gone.has(index));
    const last = taken.at(-1);
    const stepping = last && position < steps.length; // in the end only what is left counts
    drawing.replaceChildren(
      ...draw(waiting, position ? "try-waiting" : ""), ...draw(kept, "try-kept"),
      ...(stepping ? [...draw(last.struck, "try-struck"), ...draw([last.kept], "try-now")] : []),
      ...kept.map(tag));
    heading.textContent = `${chosen.length} answers, ${steps.length} survive`;
    sentence.textContent = tell(last, waiting.length);
    restart.disabled = previous.disabled = position === 0;
    next.disabled = end.disabled = position === steps.length;
    element.tryState = {
      ...setting, position, kept, waiting, candidates: chosen,
      struck: last ? last.struck : [], survivors: steps.map((step) => step.kept),
    };
    say(`${heading.textContent}. ${sentence.textContent}`);
  }

  function tell(last, waiting) {
    const { steps, chosen } = now;
    if (!chosen.length) return "No answer scores so much.";
    if (!last) return `All ${chosen.length} answers wait. The best is ${title(chosen[0])}.`;
    if (position === steps.length) {
      const best = steps.slice(0, 8).map((step) => title(step.kept)).join(", ");
      return `Kept, best first: ${best}${steps.length > 8 ? " …" : "."}`;
    }
    return `Step ${position} of ${steps.length}: keep ${title(last.kept)}, the best that waited. ` +
      `It strikes out ${last.struck.length || "nobody"}; ${waiting} still wait.`;
  }

  compute();
});
