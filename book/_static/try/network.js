/**
 * The shipped TinySSD in plain JavaScript: a picture in, detections out, as detect() gives them.
 * Runtimes such as ONNX Runtime Web weigh megabytes; 17 convolutions are done in a plain loop.
 */
(function () {
  "use strict";

  /** All of the network. It uses nothing around it, so that its source can start a worker. */
  function network() {
    // --- weights ---

    /**
     * Read the weights that tools/try_weights.py wrote: two or three characters each, the digits
     * of a number in base 91, times the scale of its output channel.
     */
    function unpack({ layers, text }) {
      let place = 0;
      const digit = () => {
        const code = text.charCodeAt(place++);
        return code - 35 - (code > 92); // "#" to "~", but no backslash
      };
      const weight = (digits) => {
        let value = 0;
        for (let k = 0; k < digits; k++) value = 91 * value + digit();
        return value - (91 ** digits - 1) / 2;
      };
      return layers.map(({ inputs, outputs, kernel, digits, scale, bias }) => {
        const weights = new Float32Array(outputs * inputs * 9);
        // A map of one cell meets only the middle of a kernel; the rest of it was left out.
        const [first, step] = kernel === 1 ? [4, 9] : [0, 1];
        for (let w = first; w < weights.length; w += step) {
          weights[w] = scale[Math.floor(w / inputs / 9)] * weight(digits);
        }
        return { outputs, weights, bias };
      });
    }

    // --- the picture ---

    /** What OpenCV's bilinear resizing mixes: for each new pixel two old ones, and their weights. */
    function taps(from, to) {
      return Array.from({ length: to }, (_, x) => {
        const at = Math.fround((x + 0.5) * (from / to) - 0.5), before = Math.floor(at);
        const inside = (place) => Math.min(Math.max(place, 0), from - 1);
        const parts = [1 - at + before, at - before].map((part) => Math.round(part * 2048));
        return [inside(before), inside(before + 1), ...parts];
      });
    }

    /** A map of zeros, framed by one more cell: the padding of a 3 × 3 convolution. */
    function blank(channels, side) {
      return { side, channels, cells: new Float32Array(channels * (side + 2) ** 2) };
    }

    /** Resize RGBA as OpenCV does, in whole numbers, and normalise: (level / 255 − mean) / std. */
    function prepare({ data, width, height }, { image_size: side, mean, std }) {
      const map = blank(3, side);
      const [columns, rows] = [taps(width, side), taps(height, side)];
      const half = width === 2 * side && height === 2 * side; // then it takes the mean of four
      for (let cell = 0; cell < 3 * side * side; cell++) {
        const x = cell % side, y = Math.floor(cell / side) % side, c = Math.floor(cell / side / side);
        const [left, right, before, after] = columns[x], [top, bottom, above, below] = rows[y];
        const level = (row, column) => data[4 * (row * width + column) + c];
        const [a, b, d, e] = [level(top, left), level(top, right), level(bottom, left), level(bottom, right)];
        const [upper, lower] = [(a * before + b * after) >> 4, (d * before + e * after) >> 4];
        const value = half ? (a + b + d + e + 2) >> 2
          : (((above * upper) >> 16) + ((below * lower) >> 16) + 2) >> 2;
        map.cells[(c * (side + 2) + y + 1) * (side + 2) + x + 1] = (value / 255 - mean[c]) / std[c];
      }
      return map;
    }

    // --- the network ---

    /**
     * Two output channels of a 3 × 3 convolution. Nearly all time is spent here: so two outputs
     * share each input that is read, and inputs stay in variables along a row.
     */
    function convolvePair({ cells, side, channels }, { weights, bias }, o, out) {
      const [width, plane] = [side + 2, (side + 2) ** 2];
      const [one, two] = [o * plane, (o + 1) * plane];
      for (let y = 1; y <= side; y++) {
        out.fill(bias[o], one + y * width + 1, one + y * width + 1 + side);
        out.fill(bias[o + 1], two + y * width + 1, two + y * width + 1 + side);
      }
      for (let i = 0; i < channels; i++) {
        const [k, l] = [9 * (o * channels + i), 9 * ((o + 1) * channels + i)];
        const a0 = weights[k], a1 = weights[k + 1], a2 = weights[k + 2];
        const a3 = weights[k + 3], a4 = weights[k + 4], a5 = weights[k + 5];
        const a6 = weights[k + 6], a7 = weights[k + 7], a8 = weights[k + 8];
        const b0 = weights[l], b1 = weights[l + 1], b2 = weights[l + 2];
        const b3 = weights[l + 3], b4 = weights[l + 4], b5 = weights[l + 5];
        const b6 = weights[l + 6], b7 = weights[l + 7], b8 = weights[l + 8];
        for (let y = 0; y < side; y++) {
          let p = i * plane + y * width, q = p + width, r = q + width; // three rows of inputs
          let s = one + (y + 1) * width + 1, t = two + (y + 1) * width + 1;
          let p0 = cells[p++], p1 = cells[p++];
          let q0 = cells[q++], q1 = cells[q++];
          let r0 = cells[r++], r1 = cells[r++];
          for (let x = 0; x < side; x++) {
            const p2 = cells[p++], q2 = cells[q++], r2 = cells[r++];
            out[s++] += a0 * p0 + a1 * p1 + a2 * p2 + a3 * q0 + a4 * q1 + a5 * q2
              + a6 * r0 + a7 * r1 + a8 * r2;
            out[t++] += b0 * p0 + b1 * p1 + b2 * p2 + b3 * q0 + b4 * q1 + b5 * q2
              + b6 * r0 + b7 * r1 + b8 * r2;
            p0 = p1; p1 = p2; q0 = q1; q1 = q2; r0 = r1; r1 = r2;
          }
        }
      }
    }

    /** A convolution, with a rest after each pair of channels. */
    function* convolve(map, layer) {
      const out = blank(layer.outputs, map.side);
      for (let o = 0; o < layer.outputs; o += 2) {
        convolvePair(map, layer, o, out.cells);
        yield;
      }
      return out;
    }

    function relu(map) {
      for (let k = 0; k < map.cells.length; k++) if (map.cells[k] < 0) map.cells[k] = 0;
      return map;
    }

    /** The largest value in each window; after a ReLU none is below 0. */
    function maxPool(map, window) {
      const out = blank(map.channels, Math.floor(map.side / window));
      const [from, to, used] = [map.side + 2, out.side + 2, out.side * window];
      for (let c = 0; c < map.channels; c++) {
        for (let y = 0; y < used; y++) {
          for (let x = 0; x < used; x++) {
            const cell = (c * to + Math.floor(y / window) + 1) * to + Math.floor(x / window) + 1;
            out.cells[cell] = Math.max(out.cells[cell], map.cells[(c * from + y + 1) * from + x + 1]);
          }
        }
      }
      return out;
    }

    /** The maps that have heads: those of the last four blocks, and the maximum of the last. */
    function* featureMaps(map, layers) {
      const maps = [];
      for (let block = 0; block < 6; block++) {
        map = relu(yield* convolve(map, layers[2 * block]));
        map = maxPool(relu(yield* convolve(map, layers[2 * block + 1])), 2);
        if (block > 1) maps.push(map);
      }
      return [...maps, maxPool(map, map.side)];
    }

    /** What one head says about each prior of its map: 4 offsets and C logits, cell by cell. */
    function readRows(map, offsets, logits) {
      const width = map.side + 2, plane = width * width;
      for (let cell = 0; cell < map.side ** 2; cell++) {
        const at = (Math.floor(cell / map.side) + 1) * width + (cell % map.side) + 1;
        for (let c = 0; c < map.channels; c++) {
          (c < 16 ? offsets : logits).push(map.cells[c * plane + at]);
        }
      }
    }

    /** Build run(picture), which computes for at most `patience` milliseconds without a rest. */
    return function build(stored, patience) {
      const layers = unpack(stored);

      function* steps(picture) {
        const maps = yield* featureMaps(prepare(picture, stored.recipe), layers);
        const [offsets, logits] = [[], []];
        for (const [index, map] of maps.entries()) {
          readRows(yield* convolve(map, layers[12 + index]), offsets, logits);
        }
        return { offsets, logits };
      }

      return async function run(picture) {
        const start = performance.now(), work = steps(picture);
        for (let step = work.next(), rested = start; ; step = work.next()) {
          const now = performance.now();
          if (step.done) return { ...step.value, ms: now - start };
          if (now - rested < patience) continue;
          await new Promise((resolve) => { setTimeout(resolve); });
          rested = performance.now();
        }
      };
    };
  }

  // --- boxes and scores ---

  function softmax(logits) {
    const highest = Math.max(...logits);
    const powers = logits.map((logit) => Math.exp(logit - highest));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }

  /** The box, xyxy, that lies `offsets` away from a prior, cxcywh. */
  function decode([dx, dy, dw, dh], [cx, cy, w, h], [centre, size]) {
    const moved = [cx + dx * centre * w, cy + dy * centre * h];
    return AnnotatedSSD.maths.toCorners([...moved, w * Math.exp(dw * size), h * Math.exp(dh * size)]);
  }

  /** All answers above the recipe's threshold, best first, at most `top_k` of each class. */
  function candidates({ offsets, logits }, priors, recipe) {
    const { class_names: names, score_threshold: threshold, top_k: most } = recipe;
    const heaps = names.map(() => []), classes = names.length;
    priors.forEach((from, prior) => {
      const moves = offsets.slice(4 * prior, 4 * prior + 4);
      const said = logits.slice(classes * prior, classes * prior + classes);
      const scores = softmax(said);
      for (let label = 1; label < classes; label++) {
        if (scores[label] <= threshold) continue;
        const box = decode(moves, from, recipe.variances);
        heaps[label].push({
          label, name: names[label], names, box, score: scores[label], prior, from, offsets: moves,
          logits: said, scores,
        });
      }
    });
    const byScore = (a, b) => b.score - a.score; // of equal scores the earlier prior comes first
    return heaps.flatMap((heap) => heap.sort(byScore).slice(0, most)).sort(byScore);
  }

  /** From what was said about every prior to detections, each with those that it `removed`. */
  function postprocess(rows, priors, recipe) {
    const all = candidates(rows, priors, recipe);
    const [boxes, labels] = [all.map(({ box }) => box), all.map(({ label }) => label)];
    return AnnotatedSSD.maths.suppress(boxes, labels, recipe.nms_threshold)
      .slice(0, recipe.max_detections)
      .map(({ kept, struck }) => ({ ...all[kept], removed: struck.map((index) => all[index]) }));
  }

  // --- where it runs ---

  /** A worker that answers pictures; it is made from a string, because file:// allows no other. */
  async function inWorker(stored) {
    const source = `"use strict";
      let run;
      onmessage = async ({ data }) => {
        if (run) postMessage(await run(data));
        else postMessage(!!(run = (${network})()(data, Infinity)));
      };`;
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const ask = (message) => new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => { event.preventDefault(); reject(new Error(event.message)); };
      worker.postMessage(message);
    });
    await ask(stored);
    return ask;
  }

  /** Build the network from its weights: detect(picture), one at a time, promises { found, ms }. */
  AnnotatedSSD.startDetector = async function (stored) {
    const priors = AnnotatedSSD.maths.makePriors(stored.priors);
    const worker = await inWorker(stored).catch(() => null);
    const run = worker || network()(stored, 12); // in the page's own thread, if it must be
    return {
      threaded: worker !== null,
      async detect({ data, width, height }) {
        const { ms, ...rows } = await run({ data, width, height });
        return { ms, found: postprocess(rows, priors, stored.recipe) };
      },
    };
  };
})();
