/**
 * SSD's arithmetic as the figures need it. Each function follows one of the package in the same
 * order of steps, so that both give the same bits in double precision. Boxes are xyxy.
 */
(function () {
"use strict";

/** Shared area and covered area of two boxes. */
function areas(a, b) {
  const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const shared = width * height;
  const both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]);
  return { shared, covered: both - shared };
}

/** Intersection over union; 0 where nothing is covered. As `boxes.paired_iou`. */
function iou(a, b) {
  const { shared, covered } = areas(a, b);
  return shared / (covered > 0 ? covered : 1);
}

const toCorners = ([cx, cy, w, h]) => [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2];
const toFraction = (value) => Math.min(Math.max(value, 0), 1);

const CLIPS = {
  none: (prior) => prior,
  wh: ([cx, cy, w, h]) => [cx, cy, toFraction(w), toFraction(h)],
  cxcywh: (prior) => prior.map(toFraction),
  corners: (prior) => {
    const [x0, y0, x1, y1] = toCorners(prior).map(toFraction);
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0];
  },
};

/** The priors of a spec from data/presets.js, in the order of the network: `make_priors`. */
function makePriors(spec) {
  const priors = [];
  spec.feature_maps.forEach((side, map) => {
    const step = spec.centres === "steps" ? spec.steps[map] : 1 / side;
    const shapes = cellShapes(spec.square_sizes[map], spec.aspect_pairs[map], spec.order);
    for (let line = 0; line < side; line += 1) {
      for (let place = 0; place < side; place += 1) {
        // A line is a row of cells; "tf2" takes a column instead.
        const [column, row] = spec.order === "tf2" ? [line, place] : [place, line];
        for (const [w, h] of shapes) {
          priors.push(CLIPS[spec.clip]([(column + 0.5) * step, (row + 0.5) * step, w, h]));
        }
      }
    }
  });
  return priors;
}

/** Width and height of the priors in one cell. */
function cellShapes([size, extra], pairs, order) {
  const squares = [[size, size], [extra, extra]];
  const aspects = order === "sgrvinod"
    ? [...pairs.map((pair) => pair[0]), ...pairs.map((pair) => pair[1])]
    : pairs.flat();
  const others = aspects.map((a) => [size * Math.sqrt(a), size / Math.sqrt(a)]);
  return [...(order === "tf2" ? squares.reverse() : squares), ...others];
}

/**
 * Which object each prior learns: `match_priors`, by the method "bipartite" or "argmax".
 *
 * @param {number[][]} priors - As corners.
 * @returns {object} `matches`, an object for each prior, or -1 for background; `overlaps`, IoU by
 *   object and prior; `best`, each object's favourite prior.
 */
function match(priors, boxes, threshold, method) {
  const overlaps = boxes.map((box) => priors.map((prior) => iou(box, prior)));
  const matches = priors.map(() => -1);
  for (let i = 0; i < priors.length; i += 1) {
    let top = -1; // of equal objects the first
    for (let j = 0; j < boxes.length; j += 1) {
      if (overlaps[j][i] >= threshold && (top < 0 || overlaps[j][i] > overlaps[top][i])) top = j;
    }
    matches[i] = top;
  }
  const best = overlaps.map((row) => row.reduce((top, v, i) => (v > row[top] ? i : top), 0));
  const first = method === "argmax" ? best : bipartite(overlaps);
  // Where two objects want the same prior, the later one writes over the earlier one's name.
  first.forEach((prior, object) => { if (prior >= 0) matches[prior] = object; });
  return { matches, overlaps, best };
}

/** A prior of its own for every object, or -1; best pair of all first: `bipartite_match`. */
function bipartite(overlaps) {
  const first = overlaps.map(() => -1);
  const taken = new Set();
  for (let turn = 0; turn < overlaps.length; turn += 1) {
    let [most, object, prior] = [1e-6, -1, -1]; // a smaller overlap makes no pair
    overlaps.forEach((row, j) => {
      if (first[j] >= 0) return;
      for (let i = 0; i < row.length; i += 1) {
        if (row[i] > most && !taken.has(i)) [most, object, prior] = [row[i], j, i];
      }
    });
    if (object < 0) break;
    first[object] = prior;
    taken.add(prior);
  }
  return first;
}

/**
 * Greedy suppression as in `postprocess`: the best waiting box is kept and strikes out every
 * waiting box of its heap that overlaps it by more than the threshold.
 *
 * @param {number[][]} boxes - Fractions of the image, best first.
 * @param {Array} heaps - Only boxes of one heap meet: their labels, or all the same.
 * @returns {object[]} The steps: `kept`, an index, and `struck`, the indices struck out by it.
 */
function suppress(boxes, heaps, threshold) {
  // Of boxes without end there is no IoU; and who does not meet the image is no detection.
  const corners = boxes.map((box) => box.map((v) => Math.min(Math.max(v, -4), 5)));
  let waiting = boxes.map((_, index) => index).filter((index) => {
    const [x0, y0, x1, y1] = corners[index];
    return x0 < 1 && y0 < 1 && x1 > 0 && y1 > 0;
  });
  const steps = [];
  while (waiting.length) {
    const [kept, ...others] = waiting;
    const struck = others.filter((index) =>
      heaps[index] === heaps[kept] && iou(corners[kept], corners[index]) > threshold);
    const gone = new Set(struck);
    waiting = others.filter((index) => !gone.has(index));
    steps.push({ kept, struck });
  }
  return steps;
}

AnnotatedSSD.maths = { areas, iou, toCorners, makePriors, match, suppress };
})();
