/** Who silences whom? What the shipped network said about three walls, and greedy suppression. */
AnnotatedSSD.define("nms", async (element, {
  dataset, clamp, two, make, block, line, outline, tag, stage, slider, choice, button, suppress,
}, { heading, sentence, report }) => {
  const { class_names: names, scenes } = await dataset("scenes");
  const SIDE = 256;
  const setting = { scene: Object.keys(scenes)[0], score: 0.3, overlap: 0.45, together: false };
  let now; // the answers that take part, best first, and the steps of their suppression
  let position = 0; // steps taken; Infinity: all there are

  const image = make("img");
  const on = stage(SIDE, image);
  const change = (name) => (value) => { setting[name] = value; compute(); };
  const go = (where) => () => { position = where(); show(); };
  const [restart, previous, next, end] = [
    button("Restart", go(() => 0)), button("Previous", go(() => position - 1)),
    button("Next", go(() => position + 1)), button("To the end", go(() => Infinity)),
  ];

  element.append(
    line("title", "Let the best answer silence the others, step by step"),
    block("controls",
      choice({
        label: "Scene", options: Object.keys(scenes), change: change("scene"),
      }),
      choice({
        label: "Suppress", options: ["class by class", "all classes together"],
        change: (way) => change("together")(way !== "class by class"),
      }),
      slider({ label: "Score above", min: 0.01, max: 0.95, value: 0.3, change: change("score") }),
      slider({ label: "IoU above", min: 0, max: 1, value: 0.45, change: change("overlap") })),
    block("columns", on.element, make("div", {}, heading,
      make("div", { class: "try-controls", role: "group", "aria-label": "Steps" },
        restart, previous, next, end), sentence,
      line("hint", "Thickest: kept in this step. Dashed: struck out by it. Pale: waiting. " +
        "With a name: kept."))));

  function compute() {
    const { labels, boxes, scores, priors, image: src, truth } = scenes[setting.scene];
    // The network counts in single precision.
    const said = labels.map((label, index) => ({
      index, label, box: boxes[index].map(Math.fround), score: Math.fround(scores[index]),
    }));
    // All classes together, a prior speaks for its best one only: the first of its answers.
    const answers = said.filter(({ index, score }) => score > Math.fround(setting.score) &&
      (!setting.together || priors.indexOf(priors[index]) === index));
    Object.assign(image, { src, alt: `A photograph with ${truth.length} painted digits.` });
    now = { answers, steps: suppress(answers, setting.overlap, setting.together) };
    show();
  }

  const title = ({ label, score }) => `${names[label]} (${two(score)})`;
  const draw = (some, kind) => some.map(({ box }) => outline(box, `try-answer ${kind}`, SIDE));

  function show() {
    const { answers, steps } = now;
    position = clamp(position, 0, steps.length);
    const taken = steps.slice(0, position);
    const kept = taken.map((step) => step.kept);
    const gone = new Set(taken.flatMap((step) => [step.kept, ...step.struck]));
    const waiting = answers.filter((each) => !gone.has(each));
    const last = taken.at(-1);
    const stepping = last && position < steps.length; // in the end only what is left counts
    on.drawing.replaceChildren(
      ...draw(waiting, position ? "try-waiting" : ""), ...draw(kept, "try-kept"),
      ...(stepping ? [...draw(last.struck, "try-struck"), ...draw([last.kept], "try-now")] : []),
      ...kept.map((each) => tag(each.box, title(each), SIDE)));
    restart.disabled = previous.disabled = position === 0;
    next.disabled = end.disabled = position === steps.length;
    report({ ...setting, position, kept, waiting, last, steps },
      `${answers.length} answers, ${steps.length} survive`, tell(last, waiting.length));
  }

  function tell(last, waiting) {
    const { answers, steps } = now;
    if (!answers.length) return "No answer scores so much.";
    if (!last) return `All ${answers.length} answers wait. The best is ${title(answers[0])}.`;
    if (position === steps.length) {
      const best = steps.slice(0, 8).map((step) => title(step.kept)).join(", ");
      return `Kept, best first: ${best}${steps.length > 8 ? " …" : "."}`;
    }
    return `Step ${position} of ${steps.length}: keep ${title(last.kept)}, the best that waited. ` +
      `It strikes out ${last.struck.length || "nobody"}; ${waiting} still wait.`;
  }

  compute();
});
