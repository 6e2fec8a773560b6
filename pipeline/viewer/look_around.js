
// A panorama in 360°, in a dialog over a page. Needs photo-sphere-viewer.js.

/**
 * Open the dialog; Escape or its button closes it.
 *
 * `title`: text above the panorama. `picture`: its URL. `draw(context, width, height)`: paints what
 * lies above it on a transparent canvas. `at`: [u, v], what is looked at first, as shares of the
 * panorama's width and height. `onPick(u, v)`: gets the place of a click, and may return a text.
 *
 * Returns {redraw, close}.
 */
function lookAround({title, picture, draw, at = [0.5, 0.5], onPick = () => "", onClose = () => {}}) {
  const {CanvasLayer, Viewer} = window.PanoramaViewer;
  const element = (tag, attributes, ...children) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  };
  const canvas = element("canvas", {width: 2048, height: 1024});
  const container = element("div", {className: "look-around-sphere"});
  const note = element("span", {className: "look-around-note"});
  note.setAttribute("role", "status");
  const dialog = element("dialog", {className: "look-around"},
    element("header", {}, element("b", {}, title), note,
      element("button", {onclick: () => dialog.close()}, "Close")),
    container);
  document.body.append(dialog);
  dialog.showModal();
  const [yaw, pitch] = [(at[0] - 0.5) * 2 * Math.PI, (0.5 - at[1]) * Math.PI];
  const viewer = new Viewer({
    container, panorama: picture, navbar: ["zoom", "move"], defaultYaw: yaw, defaultPitch: pitch,
    defaultZoomLvl: 30, minFov: 10, maxFov: 110, keyboard: "always", mousewheelCtrlKey: false,
  });
  let layer = null;
  const redraw = () => {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    draw(context, canvas.width, canvas.height);
    layer?.update();
  };
  viewer.addEventListener("ready", () => {
    layer = new CanvasLayer(viewer, canvas);
    redraw();
    dialog.dataset.ready = "1"; // for tests
  }, {once: true});
  viewer.addEventListener("click", ({data}) => {
    const u = ((data.yaw / (2 * Math.PI) + 0.5) % 1 + 1) % 1;
    note.textContent = onPick(u, Math.min(Math.max(0.5 - data.pitch / Math.PI, 0), 0.999999)) || "";
  });
  dialog.addEventListener("close", () => {
    viewer.destroy();
    dialog.remove();
    onClose();
  });
  return {redraw, close: () => dialog.close()};
}
