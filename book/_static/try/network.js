/**
 * The shipped TinySSD: a picture in, detections out, as detect() gives them. Runtimes such as ONNX
 * Runtime Web weigh megabytes; for 17 convolutions a plain loop will do.
 */
(function () {
"use strict";

/** From weights to run(picture). It uses nothing around it, so that its source can start a worker. */
function network({ recipe, layers, text }) {
  let place = 0;

  /** The next weight that tools/try_weights.py wrote: a number in base 91. */
  function nextWeight(digits) {
    let value = 0;
    for (let k = 0; k < digits; k++) {
      const code = text.charCodeAt(place++);
      value = 91 * value + code - 35 - (code > 92); // "#" to "~", but no backslash
    }
    return value - (91 ** digits - 1) / 2;
  }

  for (const layer of layers) {
    const { inputs, outputs, kernel, digits, scale } = layer;
    layer.weights = new Float32Array(outputs * inputs * 9);
    // A map of one cell meets only the middle of a kernel; the rest of it was left out.
    const [first, step] = kernel === 1 ? [4, 9] : [0, 1];
    for (let w = first; w < layer.weights.length; w += step) {
      layer.weights[w] = scale[Math.floor(w / inputs / 9)] * nextWeight(digits);
    }
  }

  /** What OpenCV's bilinear resizing mixes: for each new pixel two old ones, and their weights. */
  function taps(from, to) {
    return Array.from({ length: to }, (_, x) => {
      const at = Math.fround((x + 0.5) * (from / to) - 0.5), before = Math.floor(at);
      const inside = [before, before + 1].map((pixel) => Math.min(Math.max(pixel, 0), from - 1));
      return [...inside, ...[1 - at + before, at - before].map((part) => Math.round(part * 2048))];
    });
  }

  /** A map of zeros, framed by one more cell: the padding of a 3 × 3 convolution. */
  function blank(channels, side) {
    return { side, channels, cells: new Float32Array(channels * (side + 2) ** 2) };
  }

  /** Where a map keeps a cell. */
  const at = ({ side }, c, y, x) => (c * (side + 2) + y + 1) * (side + 2) + x + 1;

  /** Resize a square picture, RGBA, as OpenCV does in whole numbers, and normalise it. */
  function prepare({ data, width }) {
    const { image_size: side, mean, std } = recipe;
    const map = blank(3, side), mix = taps(width, side);
    for (let cell = 0; cell < 3 * side * side; cell++) {
      const x = cell % side, y = Math.floor(cell / side) % side, c = Math.floor(cell / side / side);
      const [left, right, before, after] = mix[x], [top, bottom, above, below] = mix[y];
      const level = (row, column) => data[4 * (row * width + column) + c];
      const [upper, lower] = [top, bottom].map((row) =>
        (level(row, left) * before + level(row, right) * after) >> 4);
      const value = (((above * upper) >> 16) + ((below * lower) >> 16) + 2) >> 2;
      map.cells[at(map, c, y, x)] = (value / 255 - mean[c]) / std[c];
    }
    return map;
  }

  /**
   * Two output channels of a 3 × 3 convolution. Nearly all time is spent here: so two outputs share
   * each input that is read, and inputs stay in variables along a row.
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
      const [a0, a1, a2, a3, a4, a5, a6, a7, a8] = weights.subarray(k, k + 9);
      const [b0, b1, b2, b3, b4, b5, b6, b7, b8] = weights.subarray(l, l + 9);
      for (let y = 0; y < side; y++) {
        let p = i * plane + y * width, q = p + width, r = q + width; // three rows of inputs
        let s = one + (y + 1) * width + 1, t = two + (y + 1) * width + 1;
        let p0 = cells[p++], q0 = cells[q++], r0 = cells[r++];
        let p1 = cells[p++], q1 = cells[q++], r1 = cells[r++];
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

  function convolve(map, layer) {
    const out = blank(layer.outputs, map.side);
    for (let o = 0; o < layer.outputs; o += 2) convolvePair(map, layer, o, out.cells);
    return out;
  }

  /** The largest value in each window, but at least 0: maximum pooling after a ReLU. */
  function pool(map, window) {
    const out = blank(map.channels, Math.floor(map.side / window)), used = out.side * window;
    for (let c = 0; c < map.channels; c++) {
      for (let y = 0; y < used; y++) {
        for (let x = 0; x < used; x++) {
          const cell = at(out, c, Math.floor(y / window), Math.floor(x / window));
          out.cells[cell] = Math.max(out.cells[cell], map.cells[at(map, c, y, x)]);
        }
      }
    }
    return out;
  }

  /** The maps that have heads: those of the last four blocks, and the maximum of the last. */
  function featureMaps(map) {
    const maps = [];
    for (let block = 0; block < 6; block++) {
      map = pool(convolve(map, layers[2 * block]), 1); // a ReLU alone
      map = pool(convolve(map, layers[2 * block + 1]), 2);
      if (block > 1) maps.push(map);
    }
    return [...maps, pool(map, map.side)];
  }

  return function run(picture) {
    const start = performance.now(), offsets = [], logits = [];
    featureMaps(prepare(picture)).forEach((map, head) => {
      const said = convolve(map, layers[12 + head]);
      for (let cell = 0; cell < map.side ** 2; cell++) {
        for (let c = 0; c < said.channels; c++) { // four offsets of each of four priors, and logits
          const value = said.cells[at(said, c, Math.floor(cell / map.side), cell % map.side)];
          (c < 16 ? offsets : logits).push(value);
        }
      }
    });
    return { offsets, logits, ms: performance.now() - start };
  };
}

// --- boxes and scores ---

/** The box, xyxy, that lies `offsets` away from a prior, cxcywh. */
function decode([dx, dy, dw, dh], [cx, cy, w, h], [centre, size]) {
  return AnnotatedSSD.toCorners([cx + dx * centre * w, cy + dy * centre * h,
    w * Math.exp(dw * size), h * Math.exp(dh * size)]);
}

/** From what was said about every prior to detections, each with those that it `removed`. */
function postprocess(rows, priors, recipe) {
  const { class_names: names, score_threshold: threshold, top_k: most } = recipe;
  const heaps = names.map(() => []), classes = names.length;
  priors.forEach((from, prior) => {
    const offsets = rows.offsets.slice(4 * prior, 4 * prior + 4);
    const logits = rows.logits.slice(classes * prior, classes * prior + classes);
    const powers = logits.map(Math.exp), sum = powers.reduce((a, b) => a + b);
    const scores = powers.map((power) => power / sum);
    const box = decode(offsets, from, recipe.variances);
    scores.forEach((score, label) => {
      if (!label || score <= threshold) return;
      const name = names[label];
      heaps[label].push({ label, name, names, box, score, prior, from, offsets, logits, scores });
    });
  });
  const byScore = (a, b) => b.score - a.score; // of equal scores the earlier prior comes first
  const answers = heaps.flatMap((heap) => heap.sort(byScore).slice(0, most)).sort(byScore);
  return AnnotatedSSD.suppress(answers, recipe.nms_threshold).slice(0, recipe.max_detections)
    .map(({ kept, struck }) => ({ ...kept, removed: struck }));
}

// --- where it runs ---

/** A worker that answers pictures; file:// allows none but from a string. */
async function inWorker(stored) {
  const source = `let run;
    onmessage = ({ data }) => {
      const answer = run && run(data);
      run ??= (${network})(data);
      postMessage(answer);
    };`;
  const worker = new Worker(URL.createObjectURL(new Blob([source])));
  const ask = (message) => new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = reject;
    worker.postMessage(message);
  });
  await ask(stored);
  return ask;
}

/** The network, ready to detect(picture), one at a time. */
AnnotatedSSD.startDetector = async function (stored) {
  const priors = AnnotatedSSD.makePriors(stored.priors);
  const worker = await inWorker(stored).catch(() => null);
  const run = worker || network(stored); // in the page's own thread, if it must be
  return {
    threaded: worker !== null,
    async detect({ data, width }) {
      const { ms, ...rows } = await run({ data, width });
      return { ms, found: postprocess(rows, priors, stored.recipe) };
    },
  };
};
})();
