/**
 * The base of the interactive figures: it loads each when the reader comes near it, and holds what
 * they share. A page marks the place of a figure with <div class="try" data-try="NAME"></div>.
 *
 * To pages opened as files (file://) browsers refuse ES modules and fetch(), but not <script> tags.
 * So code and data are classic scripts: a data file calls AnnotatedSSD.data().
 */
(function () {
"use strict";

// Our own address; the other files are next to it.
const here = document.currentScript.src;
const [figures, values, loading] = [{}, {}, {}]; // each by its name

/** A figure is made by `build(element, AnnotatedSSD, words)`; see `mount`. */
const define = (name, build) => { figures[name] = build; };
const data = (name, value) => { values[name] = value; };

/** Load a script, once. */
function load(file) {
  loading[file] ??= new Promise((resolve, reject) => {
    const onerror = () => reject(new Error(`${file} did not load`));
    document.head.append(make("script", { src: new URL(file, here), onload: resolve, onerror }));
  });
  return loading[file];
}

/** The value that data/NAME.js holds. */
const dataset = (name) => load(`data/${name}.js`).then(() => values[name]);

// --- elements ---

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const two = (value) => value.toFixed(2);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Elements of HTML and SVG; attributes that begin with "on" are listeners. */
const make = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** A <div> or a <p> of class try-KIND. */
const block = (kind, ...children) => make("div", { class: `try-${kind}` }, ...children);
const line = (kind, ...children) => make("p", { class: `try-${kind}` }, ...children);

/** A row of a table; its first cell is a heading anyway. */
const row = (tag, ...cells) =>
  make("tr", {}, ...cells.map((cell, place) => make(place ? tag : "th", {}, cell)));

/** A slider with a label, that shows its value. When it moves, `change(value)` is called. */
function slider({ label, min, max, step = 0.01, value, format = two, change }) {
  const output = make("output");
  const input = make("input", { type: "range", min, max, step });
  input.oninput = () => {
    put(input.valueAsNumber);
    change(input.valueAsNumber);
  };

  function put(now) {
    input.value = now;
    output.textContent = format(now);
    input.setAttribute("aria-valuetext", output.textContent);
  }

  put(value);
  return Object.assign(make("label", {}, label, input, output), { put });
}

/** A list to choose from, with a label. */
function choice({ label, options, value = options[0], change }) {
  const entries = options.map((option) => make("option", {}, option));
  const select = make("select", { onchange: () => change(select.value) }, ...entries);
  select.value = value;
  return make("label", {}, label, select);
}

const button = (text, onclick) =>
  make("button", { type: "button", class: "try-button", onclick }, text);

// --- drawings ---

/** An outline of an xyxy box, whose unit is `scale` of the drawing's. */
function outline(box, kind, scale = 1) {
  const [x, y, right, bottom] = box.map((value) => value * scale);
  const [width, height] = [right - x, bottom - y].map((size) => Math.max(0, size));
  return svg("rect", { class: kind, x, y, width, height });
}

/** A name above a box, or inside where the drawing ends. */
function tag(box, name, scale) {
  const [x, y] = box.map((value) => value * scale);
  const place = { x: clamp(x, 1, scale - 50), y: y > 12 ? y - 3 : y + 11 };
  return svg("text", { class: "try-tag", ...place }, name);
}

/** A curve with a dot on it: an `element`, and `draw`. All coordinates are from 0 to 1. */
function chart(across, value) {
  const [width, height] = [270, 150];
  const element = svg("svg", { viewBox: "-30 -18 314 212", "aria-hidden": "true" });
  const at = ([x, y]) => [x * width, (1 - y) * height].map((value) => value.toFixed(1));
  const path = (kind, d) => svg("path", { class: `try-${kind}`, d });
  const word = (x, y, text, anchor = "middle") =>
    svg("text", { x, y, "text-anchor": anchor }, text);

  /** `columns` and `rows` are places on the axes and their names, at another height perhaps. */
  function draw({ curve, dot, columns, rows }) {
    const [cx, cy] = at(dot);
    element.replaceChildren(
      ...rows.flatMap(([y, name]) => [
        y % 1 ? path("axis try-half", `M0 ${(1 - y) * height}H${width}`) : "",
        word(-8, (1 - y) * height + 5, name, "end"),
      ]),
      ...columns.map(([x, name, up = -18]) => word(x * width, height - up, name)),
      word(0, -4, value, "start"), word(width / 2, height + 38, across),
      path("curve", `M${curve.map(at).join("L")}`),
      path("axis", `M0 0V${height}H${width}M${cx} ${cy}V${height}`),
      svg("circle", { r: 6, class: "try-dot", cx, cy }));
  }

  return { element, draw };
}

/**
 * A picture to put boxes on, `side` units wide and high: `element`, and `drawing`, an SVG over it
 * in the same units. `look` magnifies a part before boxes are put there.
 */
function stage(side, picture) {
  const drawing = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
  picture.draggable = false;
  const element = block("stage", make("div", {}, picture), drawing);
  const self = { element, drawing, look };

  function look(x, y, size) {
    self.view = [x, y, x + size, y + size];
    drawing.setAttribute("viewBox", `${x} ${y} ${size} ${size}`);
    const [right, down] = [x, y].map((value) => `${(-100 * value) / side}%`);
    picture.style.transform = `scale(${side / size}) translate(${right}, ${down})`;
  }
  look(0, 0, side);
  return self;
}

// --- boxes to be moved ---

const KEYS = { // steps in x and y
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  Home: [-10, 0], End: [10, 0], PageUp: [0, -10], PageDown: [0, 10],
};
const LEAST = 4; // the smallest side of a box
const how = "Drag a box or its corners, or use the arrow keys, with Shift to resize. ";

/**
 * A `box` on a stage, xyxy in its units, to be moved and stretched by mouse, finger and keyboard.
 * `kind` is the colour's meaning. When the reader moves it, `change()` is called; by `put(box)` not.
 */
function movable(on, { name, kind, box, change }) {
  const element = make("div", {
    class: `try-box try-${kind}`, tabindex: 0, role: "application",
    "aria-roledescription": "movable box",
  }, make("span", { class: "try-name", "aria-hidden": "true" }, name));
  const self = { element, put };

  function put(corners) {
    self.box = corners;
    const [x, y, right, bottom] = corners;
    const [left, top, end, foot] = on.view;
    element.style.inset = [y - top, end - right, foot - bottom, x - left]
      .map((distance) => `${(100 * distance) / (end - left)}%`).join(" ");
    const [a, b, c, d] = [x, y, right - x, bottom - y].map(Math.round);
    element.setAttribute("aria-label", `${name}: left ${a}, top ${b}, ${c} wide, ${d} high. ` +
      "Arrow keys move it, with Shift they resize it.");
  }

  /** Move all of `start`, or only some of its edges. */
  function shift(start, delta, edges) {
    const moved = [...start];
    for (const axis of [0, 1]) {
      const [low, high] = [axis, axis + 2];
      const [from, to] = [on.view[low], on.view[high]];
      if (!edges) {
        const by = clamp(delta[axis], from - start[low], to - start[high]);
        moved[low] += by;
        moved[high] += by;
      } else if (edges.includes(low)) {
        moved[low] = clamp(start[low] + delta[axis], from, start[high] - LEAST);
      } else {
        moved[high] = clamp(start[high] + delta[axis], start[low] + LEAST, to);
      }
    }
    put(moved);
    change();
  }

  function grab(event) {
    if (event.button > 0) return;
    event.preventDefault(); // no selection of text
    element.focus({ preventScroll: true });
    const { clientX, clientY, target } = event;
    const { width, height } = on.element.getBoundingClientRect();
    const [start, size] = [self.box, on.view[2] - on.view[0]];
    target.setPointerCapture(event.pointerId);
    target.onpointermove = (now) => shift(start, [
      Math.round(((now.clientX - clientX) * size) / width),
      Math.round(((now.clientY - clientY) * size) / height),
    ], target.edges);
    target.onpointerup = target.onpointercancel = () => { target.onpointermove = null; };
  }

  for (const edges of [[0, 1], [2, 1], [0, 3], [2, 3]]) { // left or right, top or bottom
    const [left, top] = [edges[0] / 2, (edges[1] - 1) / 2];
    const place = [top, left].map((part) => `calc(${100 * part}% + ${12 * part - 20}px)`);
    const cursor = `${left === top ? "nwse" : "nesw"}-resize`;
    const style = `inset: ${place.join(" auto auto ")}; cursor: ${cursor}`;
    element.append(Object.assign(make("i", { class: "try-handle", style }), { edges }));
  }
  element.onpointerdown = grab;
  element.onkeydown = (event) => {
    const key = KEYS[event.key];
    if (!key || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault(); // no scrolling
    shift(self.box, key, event.shiftKey && [2, 3]);
  };
  put(box);
  on.element.append(element);
  return self;
}

// --- the page ---

async function mount(element) {
  const name = element.dataset.try;
  const [heading, sentence] = [line("big"), make("p")];
  const voice = make("p", { class: "visually-hidden", "aria-live": "polite" });
  let timer;

  /** Write down what a figure shows, and speak once the hand has come to rest. */
  function report(state, big, text, spoken = text) {
    element.tryState = state; // for tests
    [heading.textContent, sentence.textContent] = [big, text];
    clearTimeout(timer);
    const say = () => { voice.textContent = `${big}. ${spoken}`; };
    if (spoken !== null) timer = setTimeout(say, 500);
  }

  try {
    await Promise.all(["maths.js", `${name}.js`].map(load));
    element.append(voice);
    await figures[name](element, AnnotatedSSD, { heading, sentence, report });
    element.classList.add("try-ready");
  } catch (error) {
    element.textContent = "This figure could not be loaded.";
    console.error(error);
  }
}

window.AnnotatedSSD = {
  define, load, data, dataset, clamp, two, make, block, line, row, slider, choice, button, outline,
  tag, chart, stage, movable, how,
};

const near = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((each) => each.isIntersecting)) {
    near.unobserve(target);
    mount(target);
  }
}, { rootMargin: "400px" });

for (const element of document.querySelectorAll("[data-try]")) {
  element.classList.add("try-on"); // without scripts the place stays hidden
  near.observe(element);
}
})();
