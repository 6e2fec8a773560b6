
// Drawing over a picture. `viewer` is a `Viewer` whose pixels are loaded.

const LAYERS = {
  masks: "fill and outline every instance", outlines: "thin outlines only",
  structure: "also walls, floors and ceilings", clicks: "the first click of every instance",
};
/** Whether a layer is on, by name. */
const visible = {};

/** Colour of the i-th instance: hues by the golden angle, so that neighbours differ. */
function colour(i, structure) {
  const hue = (i * 137.508) % 360;
  const [saturation, light] = structure ? [0.22, 0.6] : [0.95, [0.58, 0.7, 0.48][i % 3]];
  const channel = n => {
    const k = (n + hue / 30) % 12, reach = saturation * Math.min(light, 1 - light);
    return Math.round(255 * (light - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

/** A pixel in ImageData's format, as a little-endian word. */
const word = ([r, g, b], alpha) =>
  ((Math.round(255 * alpha) << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** Draw picture, masks, clicks, the seam (dashed) and the box of the highlighted instance. */
function paint(viewer) {
  const {canvas, data, items, loaded, zoom} = viewer;
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(width / 2);
  if (!width) return;
  if (canvas.width !== width) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const full = Math.round(width * zoom), scale = full / data.width;
  const x = -Math.round(viewer.left * full), y = -Math.round(viewer.top * full / 2);

  // the panorama continues beyond the seam, so everything is drawn twice
  context.imageSmoothingQuality = "high";
  for (const copy of [0, 1]) {
    context.drawImage(loaded.picture, x + copy * full, y, full, full / 2);
  }
  const masks = new OffscreenCanvas(width, height);
  masks.getContext("2d").putImageData(maskPixels(viewer, width, height, ratio), 0, 0);
  context.drawImage(masks, 0, 0);

  context.save();
  context.translate(x, y);
  const lit = items.get(viewer.lit);
  if (lit && isWanted(lit)) { // a wrapped box may start in the copy left of the window
    for (const copy of [-1, 0, 1]) drawBox(context, lit, scale, copy * full, ratio);
  }
  for (const copy of [0, 1]) {
    drawSeam(context, copy * full, full / 2, ratio);
    for (const item of items.values()) {
      if ((visible.clicks && isWanted(item)) || item === lit) {
        drawClick(context, item, scale, copy * full, ratio);
      }
    }
  }
  context.restore();
}

const isWanted = item => visible.structure || !item.is_structure;

/** Fills and outlines at the canvas's resolution, so that outlines are thin at any zoom. */
function maskPixels(viewer, width, height, ratio) {
  const fill = new Uint32Array(65536), line = new Uint32Array(65536); // by id; 0 is transparent
  for (const item of viewer.items.values()) {
    const lit = item.id === viewer.lit;
    if (isWanted(item) && (visible.masks || lit)) {
      fill[item.id] = word(item.colour, lit ? 0.65 : viewer.lit ? 0.25 : 0.42);
    }
    if ((isWanted(item) && (visible.masks || visible.outlines)) || lit) {
      line[item.id] = word(item.colour, 1);
    }
  }
  const shown = shownIds(viewer, width, height);
  const image = new ImageData(width, height), out = new Uint32Array(image.data.buffer);
  const near = Math.round(ratio), below = near * width;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const id = shown[i];
      if (!line[id]) continue;
      const edge = (x >= near && shown[i - near] !== id)
        || (x < width - near && shown[i + near] !== id)
        || (y >= near && shown[i - below] !== id)
        || (y < height - near && shown[i + below] !== id);
      out[i] = edge ? line[id] : fill[id];
    }
  }
  return image;
}

/** The id at every pixel of the canvas. */
function shownIds({loaded, left, top, zoom}, width, height) {
  const columns = Int32Array.from({length: width}, (_, x) =>
    Math.floor(modulo(left + (x + 0.5) / (width * zoom), 1) * loaded.width));
  const shown = new Uint16Array(width * height);
  for (let y = 0, i = 0; y < height; y++) {
    const v = top + (y + 0.5) / (height * zoom);
    const row = Math.min(loaded.height - 1, Math.floor(v * loaded.height)) * loaded.width;
    for (let x = 0; x < width; x++, i++) shown[i] = loaded.ids[row + columns[x]];
  }
  return shown;
}

function drawSeam(context, x, height, ratio) {
  context.setLineDash([3 * ratio, 5 * ratio]);
  context.lineWidth = ratio;
  context.strokeStyle = "#fffa";
  context.beginPath();
  context.moveTo(x, 0);
  context.lineTo(x, height);
  context.stroke();
}

function drawBox(context, item, scale, shift, ratio) {
  const [x, y, w, h] = item.bbox_wrapped.map(value => value * scale);
  for (const [style, thickness, dash] of [["#000a", 3, []], ["#fff", 1.2, [5, 4]]]) {
    context.strokeStyle = style;
    context.lineWidth = thickness * ratio;
    context.setLineDash(dash.map(length => length * ratio));
    context.strokeRect(x + shift, y, w, h);
  }
}

function drawClick(context, item, scale, shift, ratio) {
  const [x, y] = item.click;
  for (const [style, radius] of [["#000b", 5], ["#fff", 4], [`rgb(${item.colour})`, 2.6]]) {
    context.fillStyle = style;
    context.beginPath();
    context.arc((x + 0.5) * scale + shift, (y + 0.5) * scale, radius * ratio, 0, 7);
    context.fill();
  }
}
