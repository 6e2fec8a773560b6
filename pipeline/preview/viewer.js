
// The viewer of one panorama: its card, its highlighted instance, and its window (zoom, roll).

const describe = item => [
  `${item.size}, ${count(item.area)} px`,
  `${item.solid_angle.toPrecision(3)} sr, `
    + `${percent(item.solid_angle / (4 * Math.PI))} of the sphere`,
  item.is_structure && "structure",
  item.crosses_seam && "crosses the seam",
  item.touches_pole && "touches a pole",
  item.iscrowd && "crowd",
].filter(Boolean);

class Viewer {
  constructor(data) {
    this.data = data;
    this.items = new Map(data.objects.map((item, i) =>
      [item.id, {...item, colour: colour(i, item.is_structure), row: null}]));
    this.left = 0; this.top = 0; this.zoom = 1; // the window, as shares of the panorama
    this.hovered = 0; this.pinned = 0; this.shown = 0; // ids; 0 is none
    this.sorting = {key: "area", down: true};
    this.loading = false; this.loaded = null;
    this.build();
  }

  get lit() { return this.hovered || this.pinned; }

  // ---- the card

  build() {
    const {data} = this;
    this.canvas = make("canvas", {tabindex: 0, role: "img", "aria-label":
      `Panorama ${data.image_id}, ${plural(data.objects.length, "instance")}; `
      + "arrow keys roll, + and - zoom"});
    this.readout = make("p", {class: "readout faint", "aria-live": "polite"});
    this.body = make("tbody");
    const column = (key, label, kind) => make("th", {class: kind},
      make("button", {onclick: () => this.sort(key), title: `sort by ${key}`}, label));
    this.scroller = make("div", {}, make("table", {},
      make("thead", {}, make("tr", {},
        column("category", "Category", ""), column("area", "Area, px", "number"))),
      this.body));
    for (const item of this.items.values()) item.row = this.buildRow(item);
    const zoomer = (label, name, factor) => make("button",
      {title: name, "aria-label": name, onclick: () => this.zoomTo(factor * this.zoom)}, label);
    this.element = make("article", {class: "card panorama"},
      this.buildHeader(),
      make("div", {},
        make("div", {class: "view"}, this.canvas,
          make("div", {class: "zoom"}, make("button",
            {title: "look around in 360°", class: "around", onclick: () => this.lookAround()},
            "360°"), zoomer("+", "zoom in", 2), zoomer("−", "zoom out", 0.5))),
        this.readout),
      make("div", {class: "instances"}, this.scroller));
    this.sort("area", true);
    this.light(0);
    listen(this);
  }

  buildHeader() {
    const {data} = this;
    return make("header", {},
      make("h2", {}, data.image_id),
      make("span", {class: "faint"}, [
        plural(data.objects.length, "instance"),
        data.too_small && `${count(data.too_small)} too small for an annotation`,
        data.room,
        `${data.generator}, seed ${data.seed}`,
        `${data.width} × ${data.height}`,
        data.position && `camera at ${data.position.map(value => value.toFixed(2)).join(", ")}`,
      ].filter(Boolean).join(" · ")));
  }

  buildRow(item) {
    const flag = (on, text) => on ? make("span", {class: "flag"}, text) : null;
    const onkeydown = event => {
      const next = {ArrowDown: "nextSibling", ArrowUp: "previousSibling"}[event.key];
      if (next) { event.preventDefault(); item.row[next]?.focus(); }
      if (event.key === "Enter") this.centre(item);
    };
    return make("tr", {
      tabindex: -1, title: item.name, class: item.is_structure ? "structure" : "",
      onpointerenter: () => this.light(item.id), onpointerleave: () => this.light(0),
      onfocus: () => this.light(item.id), onblur: () => this.light(0),
      onclick: () => this.centre(item), onkeydown,
    },
    make("td", {},
      make("span", {class: "swatch", style: `background:rgb(${item.colour})`}), item.category,
      flag(item.crosses_seam, "seam"), flag(item.touches_pole, "pole"),
      flag(item.iscrowd, "crowd")),
    make("td", {class: "number"}, count(item.area)));
  }

  /** Sort the table; a second click on a column reverses the order. */
  sort(key, down = this.sorting.key === key ? !this.sorting.down : key === "area") {
    this.sorting = {key, down};
    const order = (a, b) => key === "area" ? a.area - b.area
      : a.category.localeCompare(b.category) || b.area - a.area;
    const sorted = [...this.items.values()].sort((a, b) => down ? order(b, a) : order(a, b));
    this.body.replaceChildren(...sorted.map(item => item.row));
    sorted.forEach((item, i) => { item.row.tabIndex = i ? -1 : 0; });
    this.scroller.querySelectorAll("th").forEach((head, i) => head.setAttribute("aria-sort",
      ["category", "area"][i] !== key ? "none" : down ? "descending" : "ascending"));
  }

  /** Highlight an instance (0: none) in the picture, the table and the line below the picture. */
  light(id) {
    const before = this.shown;
    this.hovered = this.items.has(id) ? id : 0;
    const item = this.items.get(this.lit);
    this.readout.textContent = item
      ? [item.category, item.name, ...describe(item)].join(" · ")
      : "Point at the picture or at a row to highlight an instance; click to keep it highlighted.";
    if (before === this.lit) return;
    this.items.get(before)?.row.classList.remove("lit");
    item?.row.classList.add("lit");
    this.shown = this.lit;
    this.redraw();
  }

  /** Keep an instance highlighted, or release it if it is kept. */
  pin(id) {
    this.pinned = this.pinned === id ? 0 : id;
    this.light(id);
  }

  /** Scroll the table, but not the page, until a row is visible. */
  reveal(row) {
    const low = row.offsetTop - 34; // the height of the sticky head
    const high = row.offsetTop + row.offsetHeight - this.scroller.clientHeight;
    this.scroller.scrollTop = clamp(this.scroller.scrollTop, high, Math.max(low, high));
  }

  // ---- the pixels

  async load() {
    if (this.loading) return;
    this.loading = true;
    const picture = new Image(), map = new Image();
    [picture.src, map.src] = [this.data.picture, this.data.ids];
    await Promise.all([picture.decode(), map.decode()]);
    if (!this.loading) return; // unloaded in the meantime
    const {width, height} = map;
    const context = new OffscreenCanvas(width, height)
      .getContext("2d", {colorSpace: "srgb", willReadFrequently: true});
    context.drawImage(map, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    const ids = new Uint16Array(width * height);
    for (let i = 0; i < ids.length; i++) ids[i] = pixels[4 * i] | (pixels[4 * i + 1] << 8);
    this.loaded = {picture, ids, width, height};
    this.redraw();
  }

  /** Release the pixels of a panorama far from the window; those of 24 are half a gigabyte. */
  unload() {
    if (this.around) return; // somebody looks at it
    this.loaded = null;
    this.loading = false;
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.loaded) paint(this);
      this.around?.redraw();
    });
  }

  /** Open the panorama in 360°, with the same layers and the same instance highlighted. */
  lookAround() {
    if (!this.loaded) return;
    const {ids, width, height} = this.loaded, half = 0.5 / this.zoom;
    this.around = lookAround({
      title: this.data.image_id, picture: this.data.picture,
      at: [modulo(this.left + half, 1), this.top + half],
      draw: (context, across, down) => {
        const whole = {items: this.items, lit: this.lit, loaded: this.loaded, left: 0, top: 0, zoom: 1};
        if (this.loaded) context.putImageData(maskPixels(whole, across, down, 2), 0, 0);
        for (const item of this.items.values()) {
          if ((visible.clicks && isWanted(item)) || item.id === this.lit) {
            drawClick(context, item, across / this.data.width, 0, 2);
          }
        }
      },
      onPick: (u, v) => {
        this.pin(ids[Math.floor(v * height) * width + Math.floor(u * width)]);
        return this.lit ? this.readout.textContent : "";
      },
      onClose: () => { this.around = null; },
    });
  }

  // ---- the window

  /** The position of an event in the panorama, as shares of its width and height. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [modulo(this.left + (event.clientX - box.left) / (box.width * this.zoom), 1),
      clamp(this.top + (event.clientY - box.top) / (box.height * this.zoom), 0, 0.999999)];
  }

  idAt(event) {
    if (!this.loaded) return 0;
    const [u, v] = this.place(event), {ids, width, height} = this.loaded;
    return ids[Math.floor(v * height) * width + Math.floor(u * width)];
  }

  moveTo(left, top) {
    this.left = modulo(left, 1);
    this.top = clamp(top, 0, 1 - 1 / this.zoom);
    this.redraw();
  }

  /** Zoom, keeping the point (u, v) of the panorama at its place on the screen. */
  zoomTo(zoom, u = this.left + 0.5 / this.zoom, v = this.top + 0.5 / this.zoom) {
    const wanted = clamp(zoom, 1, 8), ratio = this.zoom / wanted;
    const across = modulo(u - this.left, 1) * ratio, down = (v - this.top) * ratio;
    this.zoom = wanted;
    this.moveTo(u - across, v - down);
  }

  /** Keep an instance highlighted, with its click in the middle of the window. */
  centre(item) {
    this.pin(item.id);
    const [x, y] = item.click, half = 0.5 / this.zoom;
    this.moveTo((x + 0.5) / this.data.width - half, (y + 0.5) / this.data.height - half);
  }
}
