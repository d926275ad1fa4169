/**
 * SSD's arithmetic as the figures need it, on boxes as xyxy. Each function follows one of the
 * package step by step, so that both give the same bits in double precision.
 */
(function () {
"use strict";
const { clamp } = AnnotatedSSD;

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
const toFraction = (value) => clamp(value, 0, 1);

const CLIPS = {
  none: (prior) => prior,
  wh: ([cx, cy, w, h]) => [cx, cy, toFraction(w), toFraction(h)],
  cxcywh: (prior) => prior.map(toFraction),
  corners: (prior) => {
    const [x0, y0, x1, y1] = toCorners(prior).map(toFraction);
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0];
  },
};

/** The priors of a preset from data/presets.js, in the order of the network: `make_priors`. */
function makePriors({ maps, clip, by_column: byColumn }) {
  const priors = [];
  for (const { side, step, shapes } of maps) {
    for (let cell = 0; cell < side * side; cell += 1) {
      const place = [cell % side, Math.floor(cell / side)];
      const [x, y] = (byColumn ? place.reverse() : place).map((index) => (index + 0.5) * step);
      priors.push(...shapes.map(([w, h]) => CLIPS[clip]([x, y, w, h])));
    }
  }
  return priors;
}

/**
 * Which object each prior learns: `match_priors`, by the method "bipartite" or "argmax".
 * `matches` holds each prior's object, or -1 for background; `overlaps` IoUs by object and prior;
 * `best` each object's favourite prior.
 */
function match(priors, boxes, threshold, method) {
  const overlaps = boxes.map((box) => priors.map((prior) => iou(box, prior)));
  const matches = priors.map((_, prior) => {
    const column = overlaps.map((row) => row[prior]), most = Math.max(...column);
    return most >= threshold ? column.indexOf(most) : -1; // of equal objects the first
  });
  const best = overlaps.map((row) => row.reduce((top, v, i) => (v > row[top] ? i : top), 0));
  const first = method === "argmax" ? best : bipartite(overlaps);
  // Where two objects want the same prior, the later one writes over the earlier one's name.
  first.forEach((prior, object) => { if (prior >= 0) matches[prior] = object; });
  return { matches, overlaps, best };
}

/** A prior of its own for every object, or -1; best pair of all first: `bipartite_match`. */
function bipartite(overlaps) {
  const first = overlaps.map(() => -1);
  for (const _ of overlaps) {
    let [most, object, prior] = [1e-6, -1, -1]; // a smaller overlap makes no pair
    overlaps.forEach((row, j) => {
      if (first[j] < 0) row.forEach((overlap, i) => {
        if (overlap > most && !first.includes(i)) [most, object, prior] = [overlap, j, i];
      });
    });
    if (object >= 0) first[object] = prior;
  }
  return first;
}

/**
 * Greedy suppression as in `postprocess`: the best waiting answer is kept, and strikes out those
 * that overlap it by more than the threshold, of its own label or, `together`, of any. An answer
 * has a `label` and a `box`, in fractions of the image; they come best first.
 */
function suppress(answers, threshold, together = false) {
  // Of boxes without end there is no IoU; and who does not meet the image is no detection.
  const corners = new Map(answers.map((each) => [each, each.box.map((v) => clamp(v, -4, 5))]));
  let waiting = answers.filter((each) => {
    const [x0, y0, x1, y1] = corners.get(each);
    return x0 < 1 && y0 < 1 && x1 > 0 && y1 > 0;
  });
  const steps = [];
  while (waiting.length) {
    const [kept, ...others] = waiting;
    const struck = others.filter((each) => (together || each.label === kept.label) &&
      iou(corners.get(kept), corners.get(each)) > threshold);
    waiting = others.filter((each) => !struck.includes(each));
    steps.push({ kept, struck });
  }
  return steps;
}

Object.assign(AnnotatedSSD, { areas, iou, toCorners, makePriors, match, suppress });
})();
