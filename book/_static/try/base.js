/**
 * The base of the figures that answer: it finds them, loads them when they come near, and offers
 * what they share. A page marks the place of a figure with <div class="try" data-try="NAME"></div>.
 *
 * Everything here is a classic script. A browser that has opened the pages as files (file://)
 * refuses ES modules and fetch(), but it does load <script> tags. So code and data both travel as
 * scripts: a data file calls AnnotatedSSD.data("NAME", value).
 */
(function () {
  "use strict";

  // Our own address, with whatever sub-path the site lies under; the other files are next to it.
  const here = document.currentScript.src;
  const figures = {}; // name -> mount(element)
  const values = {}; // name of a data file -> its value
  const loading = {}; // address -> promise, so that no script is loaded twice
  const themed = []; // what to call when the page turns light or dark

  /** Announce a figure: `mount(element)` fills the element; it may return a promise. */
  function define(name, mount) {
    figures[name] = mount;
  }

  /** Load a script by its address relative to base.js. Asking again gives the same promise. */
  function load(file) {
    const address = new URL(file, here).href;
    loading[address] = loading[address] || new Promise((resolve, reject) => {
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

  // ------------------------------------------------------------------------------- elements

  const SVG = "http://www.w3.org/2000/svg";

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  /** An HTML element; attributes that begin with "on" are listeners, children may be strings. */
  function make(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  /** The same for SVG. */
  function svg(tag, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }

  /** A labelled slider that shows its value. `change(value)` is called while it moves. */
  function slider({ label, min, max, step, value, format = String, change }) {
    const output = make("output", {}, format(value));
    const input = make("input", { type: "range", min, max, step, value });
    input.addEventListener("input", () => {
      output.textContent = format(input.valueAsNumber);
      input.setAttribute("aria-valuetext", output.textContent);
      change(input.valueAsNumber);
    });
    return make("label", { class: "try-slider" }, make("span", {}, label), input, output);
  }

  /** A labelled list to choose from; `options` maps values to what the reader sees. */
  function choice({ label, options, value, change }) {
    const entries = Object.entries(options).map(([key, text]) =>
      make("option", { value: key, selected: key === value && "" }, text));
    const select = make("select", { onchange: () => change(select.value) }, ...entries);
    return make("label", { class: "try-choice" }, make("span", {}, label), select);
  }

  /** A button. */
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

  // ------------------------------------------------------------------------------- pictures

  /** A colour by its meaning (truth, positive, ignored, negative, detection), as CSS has it now. */
  function colour(name, element = document.documentElement) {
    return getComputedStyle(element).getPropertyValue(`--try-${name}`).trim();
  }

  /** Call `redraw` whenever the page turns light or dark. CSS and SVG follow by themselves. */
  function onTheme(redraw) {
    themed.push(redraw);
  }

  new MutationObserver(() => themed.forEach((redraw) => redraw()))
    .observe(document.documentElement, { attributeFilter: ["data-theme"] });

  /** A canvas of width × height CSS pixels, as sharp as the screen, and its context for them. */
  function canvas(width, height) {
    const ratio = window.devicePixelRatio || 1;
    const node = make("canvas", { width: width * ratio, height: height * ratio });
    node.style.width = `${width}px`;
    const context = node.getContext("2d");
    context.scale(ratio, ratio);
    return [node, context];
  }

  /**
   * A photograph to put boxes on, `width` × `height` units large: `stage.element`, and
   * `stage.drawing`, an SVG over it in the same units. `stage.look(x, y, width, height)` magnifies
   * a part of it.
   */
  function stage(width, height, photograph, alt) {
    const drawing = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
    const image = make("img", { src: photograph, alt, draggable: "false" });
    const element = make("div", { class: "try-stage" }, make("div", {}, image), drawing);
    const self = { element, drawing, look, boxes: [] };

    function look(x, y, w, h) {
      self.view = [x, y, x + w, y + h];
      drawing.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
      const corner = `${(-100 * x) / width}%, ${(-100 * y) / height}%`;
      image.style.transform = `scale(${width / w}, ${height / h}) translate(${corner})`;
      for (const box of self.boxes) box.quiet(box.box);
    }
    look(0, 0, width, height);
    return self;
  }

  // ------------------------------------------------------------------------ boxes to move

  const KEYS = { // direction in x and y, and how many steps
    ArrowLeft: [-1, 0, 1], ArrowRight: [1, 0, 1], ArrowUp: [0, -1, 1], ArrowDown: [0, 1, 1],
    Home: [-1, 0, 10], End: [1, 0, 10], PageUp: [0, -1, 10], PageDown: [0, 1, 10],
  };
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /**
   * A box on a stage, to be moved and stretched by mouse, finger and keyboard: arrow keys move it,
   * with Shift they move its right and lower edge; Home, End and the page keys go ten steps.
   *
   * @param {object} on - A stage.
   * @param {object} options - `name` for screen readers; `kind`: a colour's meaning; `box`: xyxy in
   *   the stage's units; `step` of a key; `least`: the smallest side; `change(box)`.
   * @returns {object} `element`, `box` (read it) and `set(box)`, which calls `change`, too.
   */
  function movable(on, { name, kind, box, step = 1, least = 4, change }) {
    const element = make("div", {
      class: `try-box try-${kind}`, tabindex: 0, role: "application",
      "aria-roledescription": "movable box",
    }, make("span", { class: "try-name", "aria-hidden": "true" }, name));
    const self = { element, box, set, quiet };

    /** Put the box somewhere without telling anybody. */
    function quiet(corners) {
      self.box = corners.slice();
      ["left", "top"].forEach((side, axis) => {
        const [low, high, start, end] = [corners, on.view].flatMap((c) => [c[axis], c[axis + 2]]);
        element.style[side] = `${(100 * (low - start)) / (end - start)}%`;
        element.style[axis ? "height" : "width"] = `${(100 * (high - low)) / (end - start)}%`;
      });
      const [x, y, right, bottom] = corners.map(Math.round);
      element.setAttribute("aria-label",
        `${name}: left ${x}, top ${y}, ${right - x} wide, ${bottom - y} high. ` +
        "Arrow keys move it, with Shift they resize it.");
    }

    function set(corners) {
      quiet(corners);
      change(self.box);
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
          moved[low] = clamp(start[low] + delta[axis], from, start[high] - least);
        } else {
          moved[high] = clamp(start[high] + delta[axis], start[low] + least, to);
        }
      }
      set(moved);
    }

    function grab(event, part) {
      if (event.button > 0) return;
      event.preventDefault(); // no selection of text
      event.stopPropagation(); // a handle lies on its box
      element.focus({ preventScroll: true });
      const { box: start } = self;
      const { clientX: x, clientY: y, target } = event;
      const { width, height } = on.element.getBoundingClientRect();
      const [left, top, right, bottom] = on.view;
      const whole = (pixels, units) => step * Math.round((pixels * units) / step);
      target.setPointerCapture(event.pointerId);
      target.onpointermove = (now) => shift(start, [
        whole(now.clientX - x, (right - left) / width),
        whole(now.clientY - y, (bottom - top) / height),
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
      const [dx, dy, steps] = key;
      shift(self.box, [dx * steps * step, dy * steps * step], event.shiftKey && [2, 3]);
    });
    quiet(box);
    on.boxes.push(self);
    on.element.append(element);
    return self;
  }

  // ------------------------------------------------------------------------------- the page

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
    define, load, data, dataset, state, make, svg, slider, choice, button, announcer, colour,
    onTheme, canvas, stage, movable,
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
