
// Pointer, keys and toolbar; then the page starts.

const tooltip = document.getElementById("tooltip");

/** Show an instance's facts beside the pointer, inside the window; null hides them. */
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

/** Let a panorama's picture be pointed at, clicked, dragged, zoomed and driven by keys. */
function listen(panorama) {
  const {canvas} = panorama;
  let drag = null;
  const hover = event => {
    panorama.light(panorama.idAt(event));
    const item = panorama.items.get(panorama.hovered);
    if (item) panorama.reveal(item.row);
    showTooltip(item, event);
  };
  const roll = event => {
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    drag.far ||= Math.hypot(dx, dy) > 4;
    if (!drag.far) return;
    tooltip.hidden = true;
    const box = canvas.getBoundingClientRect();
    panorama.moveTo(drag.left - dx / (box.width * panorama.zoom),
      drag.top - dy / (box.height * panorama.zoom));
  };
  canvas.addEventListener("pointerdown", event => {
    const {left, top} = panorama;
    drag = {x: event.clientX, y: event.clientY, left, top, far: false};
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => drag ? roll(event) : hover(event));
  canvas.addEventListener("pointerup", event => {
    if (drag && !drag.far) panorama.pin(panorama.idAt(event));
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { panorama.light(0); tooltip.hidden = true; });
  canvas.addEventListener("dblclick", event =>
    panorama.zoomTo(panorama.zoom < 8 ? 2 * panorama.zoom : 1, ...panorama.place(event)));
  canvas.addEventListener("keydown", event => {
    const {left, top, zoom} = panorama, step = 0.05 / zoom;
    const action = {
      ArrowLeft: () => panorama.moveTo(left - step, top),
      ArrowRight: () => panorama.moveTo(left + step, top),
      ArrowUp: () => panorama.moveTo(left, top - step),
      ArrowDown: () => panorama.moveTo(left, top + step),
      "+": () => panorama.zoomTo(2 * zoom), "=": () => panorama.zoomTo(2 * zoom),
      "-": () => panorama.zoomTo(zoom / 2),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
}

const panoramas = panels.map(data => new Panorama(data));
const redrawAll = () => panoramas.forEach(panorama => panorama.redraw());

/** Switch on the layers that the address names (#masks,clicks); without any, the outlines. */
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

drawSummary();
drawToolbar();
document.getElementById("panoramas").append(...panoramas.map(panorama => panorama.element));
const byElement = new Map(panoramas.map(panorama => [panorama.element, panorama]));
const near = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    const panorama = byElement.get(target);
    if (isIntersecting) panorama.load(); else panorama.unload();
  }
}, {rootMargin: "1200px 0px"});
for (const element of byElement.keys()) near.observe(element);
addEventListener("resize", redrawAll);
readHash();
