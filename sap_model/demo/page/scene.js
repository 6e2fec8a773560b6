// The panorama on the page: on the sphere, flat below it, and the masks that both show.

const {CanvasLayer, MarkersPlugin, Viewer} = window.PanoramaViewer;

/** Longitude grows to the right; the picture's centre has yaw 0. Pixel centres are integers. */
export const toAngles = ([x, y], width, height) =>
  ({yaw: ((x + 0.5) / width - 0.5) * 2 * Math.PI, pitch: (0.5 - (y + 0.5) / height) * Math.PI});
const toPixel = ({yaw, pitch}, width, height) => [
  (((yaw / (2 * Math.PI) + 0.5) % 1 + 1) % 1) * width - 0.5,
  Math.min(Math.max((0.5 - pitch / Math.PI) * height - 0.5, 0), height - 1),
];

export class Scene {
  /** `onClick(x, y, negative)` and `onBox([x, y, w, h])` get panorama pixels. */
  constructor({onClick, onBox}) {
    this.onClick = onClick;
    this.onBox = onBox;
    this.layer = null;
    this.picture = null;
    this.masks = document.createElement("canvas");
    this.flat = document.querySelector("#flat");
    this.viewer = new Viewer({
      container: "sphere", navbar: ["zoom", "move", "fullscreen"], defaultZoomLvl: 5, minFov: 15,
      maxFov: 100, keyboard: "always", mousewheelCtrlKey: false, plugins: [MarkersPlugin],
    });
    this.markers = this.viewer.getPlugin(MarkersPlugin);
    this.listen();
  }

  /** Show a panorama of `width` × `height` pixels. */
  async open(url, width, height) {
    Object.assign(this, {width, height});
    this.layer?.remove();
    this.layer = null;
    this.markers.clearMarkers();
    await this.viewer.setPanorama(url, {transition: false, showLoader: false, zoom: 5,
      position: {yaw: 0, pitch: 0}});
    this.picture = new Image();
    this.picture.src = url;
    await this.picture.decode();
    this.masks.width = Math.min(width, 2048);
    this.masks.height = this.masks.width / 2;
    this.layer = new CanvasLayer(this.viewer, this.masks);
    this.drawFlat();
  }

  /** Draw objects: `{mask: canvas, points, labels, box, colour}`; `opacity` in [0, 1]. */
  draw(objects, current, opacity) {
    if (!this.layer) return;
    const context = this.masks.getContext("2d");
    const {width, height} = this.masks;
    context.clearRect(0, 0, width, height);
    for (const {fill, outline} of objects) {
      if (!fill) continue;
      context.globalAlpha = opacity;
      context.drawImage(fill, 0, 0, width, height);
      context.globalAlpha = 1;
      context.drawImage(outline, 0, 0, width, height);
    }
    if (current?.box) drawBox(context, current.box, width / this.width, width);
    this.points = current ? current.points.map((point, i) => ({point, label: current.labels[i],
      colour: current.colour})) : [];
    this.markers.setMarkers(this.points.map(({point, label, colour}, i) => ({
      id: `point-${i}`, position: toAngles(point, this.width, this.height), anchor: "center center",
      html: `<div class="marker" style="background:${label ? colour : "#d00"}"></div>`,
    })));
    this.layer.update();
    this.drawFlat();
  }

  drawFlat() {
    const {flat, picture} = this;
    if (!picture) return;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    flat.width = Math.round(flat.clientWidth * ratio) || 512;
    flat.height = flat.width / 2;
    const context = flat.getContext("2d");
    context.drawImage(picture, 0, 0, flat.width, flat.height);
    context.drawImage(this.masks, 0, 0, flat.width, flat.height);
    for (const {point: [x, y], label, colour} of this.points ?? []) {
      context.beginPath();
      context.arc((x + 0.5) / this.width * flat.width, (y + 0.5) / this.height * flat.height,
        4 * ratio, 0, 7);
      context.fillStyle = label ? colour : "#d00";
      context.strokeStyle = "#fff";
      context.lineWidth = 1.5 * ratio;
      context.fill();
      context.stroke();
    }
  }

  lookAt(point) {
    this.viewer.animate({...toAngles(point, this.width, this.height), speed: "10rpm"});
  }

  // ---- input

  listen() {
    let shift = false;
    this.viewer.container.addEventListener("pointerdown", event => { shift = event.shiftKey; }, true);
    this.viewer.container.addEventListener("contextmenu", event => event.preventDefault());
    this.viewer.addEventListener("click", ({data}) => {
      if (!this.layer || data.target?.closest?.(".psv-navbar")) return;
      this.onClick(...toPixel(data, this.width, this.height), data.rightclick || shift);
    });
    this.listenFlat();
    this.listenBox();
    addEventListener("resize", () => this.drawFlat());
  }

  listenFlat() {
    const {flat} = this;
    const place = event => {
      const box = flat.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width * this.width - 0.5,
        (event.clientY - box.top) / box.height * this.height - 0.5];
    };
    let start = null;
    flat.addEventListener("contextmenu", event => event.preventDefault());
    flat.addEventListener("pointerdown", event => {
      start = place(event);
      flat.setPointerCapture(event.pointerId);
    });
    flat.addEventListener("pointerup", event => {
      if (!this.layer || !start) return;
      const end = place(event);
      const [w, h] = [Math.abs(end[0] - start[0]), Math.abs(end[1] - start[1])];
      if (this.boxing && w > 2 && h > 2) {
        this.onBox([Math.min(start[0], end[0]), Math.min(start[1], end[1]), w, h]);
      } else if (!this.boxing) {
        this.onClick(...start, event.shiftKey || event.button === 2);
      }
      start = null;
    });
  }

  /** With the box tool a drag on the sphere is a box; otherwise it looks around. */
  set boxTool(on) {
    this.boxing = on;
    this.boxLayer.hidden = !on;
  }

  listenBox() {
    this.boxLayer = document.querySelector("#box-layer");
    let start = null;
    const canvas = this.boxLayer, context = canvas.getContext("2d");
    const place = event => {
      const box = canvas.getBoundingClientRect();
      return {x: event.clientX - box.left, y: event.clientY - box.top};
    };
    canvas.addEventListener("pointerdown", event => {
      [canvas.width, canvas.height] = [canvas.clientWidth, canvas.clientHeight];
      start = place(event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", event => {
      if (!start) return;
      const end = place(event);
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.strokeStyle = "#fff";
      context.setLineDash([6, 4]);
      context.strokeRect(start.x, start.y, end.x - start.x, end.y - start.y);
    });
    canvas.addEventListener("pointerup", event => {
      const end = place(event), from = start;
      start = null;
      context.clearRect(0, 0, canvas.width, canvas.height);
      if (!from || Math.abs(end.x - from.x) < 4 || Math.abs(end.y - from.y) < 4) return;
      this.onBox(this.boxOnSphere(from, end));
    });
  }

  /** The panorama box around a rectangle of the screen, from points along its border. */
  boxOnSphere(a, b) {
    const points = [];
    for (let i = 0; i <= 8; i++) {
      const [x, y] = [a.x + (b.x - a.x) * i / 8, a.y + (b.y - a.y) * i / 8];
      points.push({x, y: a.y}, {x, y: b.y}, {x: a.x, y}, {x: b.x, y});
    }
    const pixels = points.map(point => toPixel(
      this.viewer.dataHelper.viewerCoordsToSphericalCoords(point), this.width, this.height));
    const middle = pixels[0][0], half = this.width / 2; // columns are counted around the first one
    const xs = pixels.map(([x]) => ((x - middle + half) % this.width + this.width) % this.width - half);
    const ys = pixels.map(([, y]) => y);
    const left = Math.min(...xs);
    return [((middle + left) % this.width + this.width) % this.width, Math.min(...ys),
      Math.max(...xs) - left, Math.max(...ys) - Math.min(...ys)];
  }
}

function drawBox(context, [x, y, w, h], scale, width) {
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  context.setLineDash([8, 6]);
  for (const shift of [0, -width]) { // a box may cross the seam
    context.strokeRect(x * scale + shift, y * scale, w * scale, h * scale);
  }
  context.setLineDash([]);
}

/** Two canvases of a mask (a grey PNG's URL): its area and its outline, in a colour. */
export const paintMask = (url, colour) => paint(url, (red) => red > 127 ? 1 : 0, [colour]);

/** Two canvases of a map of numbers (red: low byte, green: high byte), in colours by turns. */
export const paintLabels = (url, colours) =>
  paint(url, (red, green) => red | (green << 8), colours);

async function paint(url, numberOf, colours) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const {width, height} = picture;
  const canvas = () => Object.assign(document.createElement("canvas"), {width, height});
  const fill = canvas(), outline = canvas();
  const context = fill.getContext("2d", {willReadFrequently: true, colorSpace: "srgb"});
  context.drawImage(picture, 0, 0);
  const {data} = context.getImageData(0, 0, width, height);
  const on = new Uint16Array(width * height);
  for (let i = 0; i < on.length; i++) on[i] = numberOf(data[4 * i], data[4 * i + 1]);
  const words = colours.map(colour => {
    const [r, g, b] = colour.match(/\w\w/g).map(part => parseInt(part, 16));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
  const area = new Uint32Array(width * height), edge = new Uint32Array(width * height);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const one = on[i];
      if (!one) continue;
      const word = words[(one - 1) % words.length];
      area[i] = word;
      const left = x ? i - 1 : i + width - 1, right = x < width - 1 ? i + 1 : i - width + 1;
      if (on[left] !== one || on[right] !== one || (y && on[i - width] !== one)
        || (y < height - 1 && on[i + width] !== one)) edge[i] = word;
    }
  }
  for (const [target, pixels] of [[fill, area], [outline, edge]]) {
    target.getContext("2d").putImageData(
      new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
  }
  return {fill, outline};
}
