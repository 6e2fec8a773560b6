
// Pointer, keyboard and toolbar; the last lines start the page.

const tooltip = document.getElementById("tooltip");

/** Show an instance's data beside the pointer, within the window; null hides it. */
function showTooltip(item, event) {
  tooltip.hidden = !item;
  if (!item) return;
  tooltip.replaceChildren(make("b", {}, item.category), make("div", {}, item.name),
    ...describe(item).map(text => make("div", {}, text)));
  const {offsetWidth: width, offsetHeight: height} = tooltip;
  const right = event.clientX + 16, fits = right + width <= innerWidth;
  tooltip.style.left = `${fits ? right : Math.max(4, event.clientX - 12 - width)}px`;
  tooltip.style.top = `${clamp(event.clientY + 16, 0, innerHeight - height - 4)}px`;
}

/** Handle pointer and keyboard events of a viewer's picture. */
function listen(viewer) {
  const {canvas} = viewer;
  let drag = null;
  const hover = event => {
    viewer.light(viewer.idAt(event));
    const item = viewer.items.get(viewer.hovered);
    if (item) viewer.reveal(item.row);
    showTooltip(item, event);
  };
  const roll = event => {
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    drag.far ||= Math.hypot(dx, dy) > 4;
    if (!drag.far) return;
    tooltip.hidden = true;
    const box = canvas.getBoundingClientRect();
    viewer.moveTo(drag.left - dx / (box.width * viewer.zoom),
      drag.top - dy / (box.height * viewer.zoom));
  };
  canvas.addEventListener("pointerdown", event => {
    const {left, top} = viewer;
    drag = {x: event.clientX, y: event.clientY, left, top, far: false};
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => drag ? roll(event) : hover(event));
  canvas.addEventListener("pointerup", event => {
    if (drag && !drag.far) viewer.pin(viewer.idAt(event));
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { viewer.light(0); tooltip.hidden = true; });
  canvas.addEventListener("dblclick", event =>
    viewer.zoomTo(viewer.zoom < 8 ? 2 * viewer.zoom : 1, ...viewer.place(event)));
  canvas.addEventListener("keydown", event => {
    const {left, top, zoom} = viewer, step = 0.05 / zoom;
    const action = {
      ArrowLeft: () => viewer.moveTo(left - step, top),
      ArrowRight: () => viewer.moveTo(left + step, top),
      ArrowUp: () => viewer.moveTo(left, top - step),
      ArrowDown: () => viewer.moveTo(left, top + step),
      "+": () => viewer.zoomTo(2 * zoom), "=": () => viewer.zoomTo(2 * zoom),
      "-": () => viewer.zoomTo(zoom / 2),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
}

const viewers = panels.map(data => new Viewer(data));
const redrawAll = () => viewers.forEach(viewer => viewer.redraw());

/** Turn on the layers in the address (#masks,clicks); without any, the outlines. */
function readHash() {
  const named = location.hash ? location.hash.slice(1).split(",") : ["outlines"];
  for (const layer in LAYERS) visible[layer] = named.includes(layer);
  for (const button of document.querySelectorAll("#toolbar button")) {
    button.setAttribute("aria-pressed", visible[button.dataset.layer]);
  }
  redrawAll();
}

function toggle(layer) {
  const on = Object.keys(LAYERS).filter(name => (name === layer) !== visible[name]);
  history.replaceState(null, "", "#" + (on.join(",") || "plain"));
  readHash();
}

function drawToolbar() {
  document.getElementById("toolbar").append(
    ...Object.entries(LAYERS).map(([layer, hint]) => make("button",
      {"data-layer": layer, title: hint, onclick: () => toggle(layer)},
      layer[0].toUpperCase() + layer.slice(1), make("kbd", {}, layer[0].toUpperCase()))),
    make("span", {class: "faint hint"}, "drag or ←→ to roll, + − or double click to zoom"));
  addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const layer = Object.keys(LAYERS).find(name => name[0] === event.key.toLowerCase());
    if (layer) toggle(layer);
  });
  addEventListener("hashchange", readHash);
}

drawHeader();
drawToolbar();
document.getElementById("panoramas").append(...viewers.map(viewer => viewer.element));
const byElement = new Map(viewers.map(viewer => [viewer.element, viewer]));
const near = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    const viewer = byElement.get(target);
    if (isIntersecting) viewer.load(); else viewer.unload();
  }
}, {rootMargin: "1200px 0px"});
for (const element of byElement.keys()) near.observe(element);
addEventListener("resize", redrawAll);
readHash();
