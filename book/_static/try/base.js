/**
 * The base of the interactive figures: it loads each when the reader comes near it, and offers what
 * they share. A page marks the place of a figure with <div class="try" data-try="NAME"></div>.
 *
 * A browser that has opened the pages as files (file://) refuses ES modules and fetch(), but not
 * <script> tags. So code and data are classic scripts: a data file calls AnnotatedSSD.data().
 */
(function () {
"use strict";

// Our own address, under whatever path the site lies; the other files are next to it.
const here = document.currentScript.src;
const [figures, values, loading] = [{}, {}, {}]; // by name; data by name; promises by address

/** Announce a figure: `mount(element)` fills the element; it may return a promise. */
function define(name, mount) {
  figures[name] = mount;
}

/** Load a script by its address relative to base.js. Asking again gives the same promise. */
function load(file) {
  const address = new URL(file, here).href;
  loading[address] ??= new Promise((resolve, reject) => {
    const script = make("script", { src: address });
    script.onload = () => resolve();
    script.onerror = () => reject(new Error(`${file} did not load`));
    document.head.append(script);
  });
  return loading[address];
}

/** Called by a data file: this is the value of NAME. */
function data(name, value) {
  values[name] = value;
}

/** The value that data/NAME.js holds, as a promise. */
async function dataset(name) {
  await load(`data/${name}.js`);
  return values[name];
}

/** The numbers that a figure shows, for tests. A figure keeps them in `element.tryState`. */
function state(element) {
  return element.tryState;
}

// --- elements ---

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An HTML element; attributes that begin with "on" are listeners. */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A slider with a label, that shows its value; `change(value)` is called while it moves. */
function slider({ label, min, max, step, value, format = String, change }) {
  const output = make("output", {}, format(value));
  const input = make("input", { type: "range", min, max, step, value });
  input.addEventListener("input", () => {
    output.textContent = format(input.valueAsNumber);
    input.setAttribute("aria-valuetext", output.textContent);
    change(input.valueAsNumber);
  });
  return make("label", { class: "try-slider" }, label, input, output);
}

/** A list to choose from, with a label; `options` maps values to what the reader sees. */
function choice({ label, options, value, change }) {
  const entries = Object.entries(options).map(([key, text]) =>
    make("option", { value: key, selected: key === value && "" }, text));
  const select = make("select", { onchange: () => change(select.value) }, ...entries);
  return make("label", {}, label, select);
}

function button(text, click) {
  return make("button", { type: "button", class: "try-button", onclick: click }, text);
}

/** A polite voice for screen readers: say(text) speaks once the hand has come to rest. */
function announcer(element) {
  const region = make("p", { class: "try-hidden", "aria-live": "polite" });
  let timer;
  element.append(region);
  return (text) => {
    clearTimeout(timer);
    timer = setTimeout(() => { region.textContent = text; }, 500);
  };
}

// --- boxes to be moved ---

/** An outline in SVG of an xyxy box. */
function outline([x, y, right, bottom], kind) {
  const [width, height] = [Math.max(0, right - x), Math.max(0, bottom - y)];
  return svg("rect", { class: kind, x, y, width, height });
}

/**
 * A photograph to put boxes on, `side` units wide and high: `element`, and `drawing`, an SVG over
 * it in the same units. `look(x, y, size)` magnifies a part of it.
 */
function stage(side, photograph, alt) {
  const drawing = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
  const image = make("img", { src: photograph, alt, draggable: "false" });
  const element = make("div", { class: "try-stage" }, make("div", {}, image), drawing);
  const self = { element, drawing, look, boxes: [] };

  function look(x, y, size) {
    self.view = [x, y, x + size, y + size];
    drawing.setAttribute("viewBox", `${x} ${y} ${size} ${size}`);
    const [right, down] = [x, y].map((v) => `${(-100 * v) / side}%`);
    image.style.transform = `scale(${side / size}) translate(${right}, ${down})`;
    for (const box of self.boxes) box.put(box.box);
  }
  look(0, 0, side);
  return self;
}

const KEYS = { // steps in x and y
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  Home: [-10, 0], End: [10, 0], PageUp: [0, -10], PageDown: [0, 10],
};
const LEAST = 4; // the smallest side of a box
const how = "Drag a box or its corners, or use the arrow keys, with Shift to resize. ";
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/**
 * A box on a stage, to be moved and stretched by mouse, finger and keyboard, in whole units.
 *
 * @param {object} on - A stage.
 * @param {object} options - `name`, to be seen and heard; `kind`, a colour's meaning; `box`, xyxy
 *   in the stage's units; `change()`, called when the reader has moved the box.
 * @returns {object} `element`, `box` (read it) and `put(box)`, which does not call `change`.
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
    const [left, top, end] = on.view;
    const sizes = { left: x - left, top: y - top, width: right - x, height: bottom - y };
    for (const [property, size] of Object.entries(sizes)) {
      element.style[property] = `${(100 * size) / (end - left)}%`;
    }
    const [a, b, c, d] = [x, y, right - x, bottom - y].map(Math.round);
    element.setAttribute("aria-label", `${name}: left ${a}, top ${b}, ${c} wide, ${d} high. ` +
      "Arrow keys move it, with Shift they resize it.");
  }

  /** Move all of `start`, or only the edges that `part` names by their indices. */
  function shift(start, delta, part) {
    const moved = start.slice();
    for (const axis of [0, 1]) {
      const [low, high] = [axis, axis + 2];
      const [from, to] = [on.view[low], on.view[high]];
      if (!part) {
        const by = clamp(delta[axis], from - start[low], to - start[high]);
        moved[low] += by;
        moved[high] += by;
      } else if (part.includes(low)) {
        moved[low] = clamp(start[low] + delta[axis], from, start[high] - LEAST);
      } else {
        moved[high] = clamp(start[high] + delta[axis], start[low] + LEAST, to);
      }
    }
    put(moved);
    change();
  }

  function grab(event, part) {
    if (event.button > 0) return;
    event.preventDefault(); // no selection of text
    event.stopPropagation(); // a handle lies on its box
    element.focus({ preventScroll: true });
    const { clientX, clientY, target } = event;
    const { width, height } = on.element.getBoundingClientRect();
    const [start, size] = [self.box, on.view[2] - on.view[0]];
    target.setPointerCapture(event.pointerId);
    target.onpointermove = (now) => shift(start, [
      Math.round(((now.clientX - clientX) * size) / width),
      Math.round(((now.clientY - clientY) * size) / height),
    ], part);
    target.onpointerup = target.onpointercancel = () => { target.onpointermove = null; };
  }

  for (const [place, part] of [["nw", [0, 1]], ["ne", [2, 1]], ["sw", [0, 3]], ["se", [2, 3]]]) {
    element.append(make("i", {
      class: `try-handle try-${place}`, onpointerdown: (event) => grab(event, part),
    }));
  }
  element.addEventListener("pointerdown", (event) => grab(event));
  element.addEventListener("keydown", (event) => {
    const key = KEYS[event.key];
    if (!key || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault(); // no scrolling
    shift(self.box, key, event.shiftKey && [2, 3]);
  });
  put(box);
  on.boxes.push(self);
  on.element.append(element);
  return self;
}

// --- the page ---

async function mount(element) {
  const name = element.dataset.try;
  try {
    await load(`${name}.js`);
    await figures[name](element);
    element.classList.add("try-ready");
  } catch (error) {
    element.textContent = "This figure could not be loaded.";
    console.error(error);
  }
}

window.AnnotatedSSD = {
  define, load, data, dataset, state, make, svg, slider, choice, button, announcer, outline,
  stage, movable, how,
};

const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    near.unobserve(entry.target);
    mount(entry.target);
  }
}, { rootMargin: "400px" });

for (const element of document.querySelectorAll("[data-try]")) {
  element.classList.add("try-on"); // without scripts the place stays hidden
  near.observe(element);
}
})();
