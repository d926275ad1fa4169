// Loads MathJax. A small screen, whose processor is likely slow, waits for it until an equation is
// near or the reader does something: to start it takes such a device half a second.

const script = document.currentScript;

function load() {
  if (script.dataset.src === undefined) return;
  const mathjax = document.createElement("script");
  mathjax.src = script.dataset.src;
  delete script.dataset.src;
  document.head.append(mathjax);
}

if (matchMedia("(max-width: 991.98px)").matches) {
  const near = new IntersectionObserver(
    (seen) => seen.some((each) => each.isIntersecting) && load(),
    { rootMargin: "1500px" },
  );
  document.querySelectorAll(".math").forEach((each) => near.observe(each));
  for (const kind of ["scroll", "pointerdown", "keydown", "beforeprint"]) {
    addEventListener(kind, load, { once: true, passive: true });
  }
} else {
  load();
}
