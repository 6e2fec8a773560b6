// What a person does on the page, and what happens then.

import {request, stream} from "./api.js";
import {paintLabels, paintMask, Scene} from "./scene.js";

const COLOURS = ["#1e90ff", "#ff8c1a", "#2fbf71", "#e0409b", "#9b6bff", "#e6c229", "#17becf", "#ff5f57",
  "#7fb800", "#c77dff"];
const $ = selector => document.querySelector(selector);
const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

const state = {
  session: null, objects: [], current: null, tool: "include", history: [], number: 0, truth: null,
  opening: null, everything: null,
};
const scene = new Scene({onClick: click, onBox: box});

// ---- messages

function say(text) { $("#status").textContent = text; }
function fail(error) {
  if (error.name === "AbortError") return;
  $("#error").textContent = error.message;
  $("#error").hidden = false;
  say("");
}
$("#error").addEventListener("click", () => { $("#error").hidden = true; });
const guarded = action => async (...values) => {
  try { await action(...values); } catch (error) { fail(error); }
};

// ---- panoramas

async function start() {
  const {panoramas, model} = await request("/api/panoramas");
  $("#model").textContent = `model: ${model}`;
  for (const {id, name} of panoramas) $("#panoramas").append(make("option", {value: id}, name));
  if (panoramas.length) await open(panoramas[0].id);
  else say("Open or drop an equirectangular picture (twice as wide as high).");
}

async function open(panorama) {
  state.opening?.abort();
  const opening = state.opening = new AbortController();
  if (state.session) request(`/api/sessions/${state.session.id}`, {method: "DELETE"}).catch(() => {});
  Object.assign(state, {session: null, objects: [], current: null, history: [], number: 0, truth: null,
    everything: null});
  $("#error").hidden = true;
  $("#truth").checked = false;
  refresh();
  await stream("/api/sessions", {panorama}, async step => {
    if (step.session) {
      state.session = {id: step.session, width: step.width, height: step.height, ready: false};
      $("#truth-row").hidden = !step.truth;
      await scene.open(`/api/sessions/${step.session}/picture.jpg`, step.width, step.height);
      say("Preparing the views …");
    } else if (step.views) {
      $("#progress").hidden = false;
      $("#progress").value = step.encoded / step.views;
      say(`Encoding view ${step.encoded} of ${step.views} …`);
    } else if (step.ready) {
      Object.assign(state.session, {ready: true, grid: step.grid});
      $("#progress").hidden = true;
      say(`Ready (${step.seconds.toFixed(1)} s). Click on an object.`);
      showViews(step.grid);
    }
  }, opening.signal);
  refresh();
}

const upload = guarded(async file => {
  say(`Reading ${file.name} …`);
  const {id, name} = await request(`/api/panoramas?name=${encodeURIComponent(file.name)}`,
    {method: "POST", body: file});
  $("#panoramas").append(make("option", {value: id, selected: true}, name));
  await open(id);
});

// ---- objects

function newObject() {
  const colour = COLOURS[state.number % COLOURS.length];
  state.number += 1;
  const object = {id: state.number, name: `object ${state.number}`, colour, points: [], labels: [],
    box: null, fill: null, outline: null, visible: true};
  state.objects.push(object);
  state.current = object;
  return object;
}

/** The object that prompts go to. */
const target = () => state.current ?? newObject();

function remember(object) {
  state.history.push({id: object.id, points: [...object.points], labels: [...object.labels],
    box: object.box});
}

const prompt = guarded(async change => {
  if (!state.session?.ready) return say("The panorama is still being prepared.");
  const object = target();
  remember(object);
  change(object);
  refresh();
  await segment(object);
});

function click(x, y, negative) {
  if (state.tool === "box") return;
  const label = negative || state.tool === "exclude" ? 0 : 1;
  prompt(object => {
    object.points.push([x, y]);
    object.labels.push(label);
  });
}

function box(extent) { prompt(object => { object.box = extent; }); }

async function segment(object) {
  object.running?.abort();
  const running = object.running = new AbortController();
  const {session} = state;
  if (!object.box && !object.labels.includes(1)) {
    Object.assign(object, {fill: null, outline: null, iou: null});
    await request(`/api/sessions/${session.id}/objects/${object.id}`, {method: "DELETE"});
    say(object.points.length ? "Add a click on the object." : "");
    return refresh();
  }
  const began = performance.now();
  const {points, labels, box, name} = object;
  await stream(`/api/sessions/${session.id}/objects/${object.id}`, {points, labels, box, name},
    async step => {
      if (running.signal.aborted) return;
      if (step.mask) Object.assign(object, await paintMask(step.mask, object.colour));
      if (step.view_masks) paintViews(step.view_masks, object.colour, step.clicked);
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      if (step.done) {
        Object.assign(object, {iou: step.iou, truth: step.truth, area: step.area});
        say(`${object.name}: ${step.area.toLocaleString("en")} px, `
          + `${(100 * step.solid_angle / (4 * Math.PI)).toFixed(2)} % of the sphere, ${seconds} s`
          + (step.truth ? `; IoU ${step.truth.iou.toFixed(2)} with ${step.truth.category}` : ""));
        document.body.dataset.done = object.id; // for tests
      } else {
        say(`${object.name}: ${step.seen} of ${step.of} views …`);
      }
      refresh();
    }, running.signal);
  await showTruth();
}

const everything = guarded(async () => {
  if (!state.session?.ready) return say("The panorama is still being prepared.");
  const {session} = state, began = performance.now();
  $("#everything").disabled = true;
  try {
    await stream(`/api/sessions/${session.id}/everything`, {}, async step => {
      if (state.session !== session) return;
      if (step.labels) {
        state.everything = {...await paintLabels(step.labels, COLOURS), count: step.count};
        say(`Everything: ${step.count} masks, ${((performance.now() - began) / 1000).toFixed(1)} s`);
        document.body.dataset.everything = step.count; // for tests
      } else {
        const [done, total] = step.done_of;
        say(step.stage === "decode" ? `Everything: view ${done} of ${total} …`
          : `Everything: mask ${done} of ${total} …`);
      }
    });
  } finally { $("#everything").disabled = false; }
  refresh();
});

const noEverything = guarded(async () => {
  state.everything = null;
  await request(`/api/sessions/${state.session.id}/everything`, {method: "DELETE"});
  refresh();
});

const undo = guarded(async () => {
  const last = state.history.pop();
  if (!last) return;
  const object = state.objects.find(({id}) => id === last.id);
  if (!object) return;
  Object.assign(object, {points: last.points, labels: last.labels, box: last.box});
  state.current = object;
  await segment(object);
});

const remove = guarded(async object => {
  object.running?.abort();
  state.objects = state.objects.filter(one => one !== object);
  if (state.current === object) state.current = null;
  await request(`/api/sessions/${state.session.id}/objects/${object.id}`, {method: "DELETE"});
  refresh();
});

const showTruth = guarded(async () => {
  const mask = $("#truth").checked && state.current?.truth?.mask;
  state.truth = mask ? {...await paintMask(mask, "#ffffff"), colour: "#ffffff"} : null;
  refresh();
});

// ---- drawing

function refresh() {
  const shown = state.objects.filter(({visible}) => visible);
  if (state.everything) shown.unshift(state.everything);
  if (state.truth) shown.push({fill: null, ...state.truth});
  scene.draw(shown, state.current, Number($("#opacity").value));
  const list = state.objects.map(row);
  if (state.everything) list.push(make("li", {}, "✦", `everything: ${state.everything.count} masks`,
    make("button", {title: "remove", ariaLabel: "remove everything", onclick: noEverything}, "✕")));
  $("#objects").replaceChildren(...list);
  $("#hint").textContent = state.current
    ? "Click to correct: shift-click or the right button where the object is not."
    : "Drag to look around, click on an object.";
  $("#undo").disabled = !state.history.length;
  const ready = state.everything || state.objects.some(({fill}) => fill);
  for (const [id, file] of [["masks", "masks.png"], ["coco", "coco.json"], ["cutouts", "cutouts.zip"]]) {
    const link = $(`#export-${id}`);
    link.setAttribute("aria-disabled", String(!ready));
    if (state.session) link.href = `/api/sessions/${state.session.id}/export/${file}`;
  }
}

function row(object) {
  const item = make("li", {className: object === state.current ? "current" : ""});
  const name = make("input", {value: object.name, title: "rename", onchange: event => {
    object.name = event.target.value || object.name;
    if (object.fill) request(`/api/sessions/${state.session.id}/objects/${object.id}`, {
      method: "PATCH", body: JSON.stringify({name: object.name})}).catch(fail);
  }});
  const swatch = make("span", {className: "swatch"});
  swatch.style.background = object.colour;
  item.append(swatch, name,
    make("button", {title: "correct this object", ariaLabel: `select ${object.name}`, onclick: () => {
      state.current = object;
      if (object.points.length) scene.lookAt(object.points[0]);
      refresh();
    }}, "✎"),
    make("button", {title: object.visible ? "hide" : "show", onclick: () => {
      object.visible = !object.visible;
      refresh();
    }}, object.visible ? "◉" : "○"),
    make("button", {title: "remove", ariaLabel: `remove ${object.name}`, onclick: () => remove(object)}, "✕"));
  return item;
}

/** A grid of the scan's views; `grid` is {columns, rows, views: [{column, row}]}. */
function showViews(grid) {
  const panel = $("#views");
  panel.style.gridTemplateColumns = `repeat(${grid.columns}, 1fr)`;
  const sheet = `url(/api/sessions/${state.session.id}/views.jpg)`;
  panel.replaceChildren(...grid.views.map(({column, row}, i) => {
    const figure = make("figure", {title: `view ${i + 1}`}, make("canvas", {width: 64, height: 64}));
    Object.assign(figure.style, {gridColumn: column + 1, gridRow: row + 1, backgroundImage: sheet,
      backgroundSize: `${100 * grid.columns}% ${100 * grid.rows}%`,
      backgroundPosition: `${100 * column / Math.max(1, grid.columns - 1)}% `
        + `${100 * row / Math.max(1, grid.rows - 1)}%`});
    return figure;
  }));
}

async function paintViews(masks, colour, clicked) {
  const figures = [...$("#views").children];
  if (clicked) figures.forEach((figure, i) => {
    figure.classList.toggle("clicked", clicked.includes(i));
    figure.firstChild.getContext("2d").clearRect(0, 0, 64, 64);
  });
  for (const [index, url] of Object.entries(masks)) {
    const context = figures[index]?.firstChild.getContext("2d");
    if (!context) continue;
    const {fill} = await paintMask(url, colour);
    context.clearRect(0, 0, 64, 64);
    context.globalAlpha = 0.6;
    context.drawImage(fill, 0, 0, 64, 64);
  }
}

// ---- controls

function choose(tool) {
  state.tool = tool;
  scene.boxTool = tool === "box";
  for (const name of ["include", "exclude", "box"]) {
    $(`#tool-${name}`).setAttribute("aria-pressed", name === tool);
  }
}
for (const name of ["include", "exclude", "box"]) {
  $(`#tool-${name}`).addEventListener("click", () => choose(name));
}
$("#panoramas").addEventListener("change", guarded(event => open(event.target.value)));
$("#upload").addEventListener("change", event => {
  if (event.target.files[0]) upload(event.target.files[0]);
  event.target.value = "";
});
$("#undo").addEventListener("click", undo);
$("#everything").addEventListener("click", everything);
$("#opacity").addEventListener("input", refresh);
$("#truth").addEventListener("change", showTruth);
const addObject = () => { state.current = null; target(); refresh(); };
$("#new-object").addEventListener("click", addObject);
addEventListener("keydown", event => {
  if (event.target.matches("input, select")) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); undo(); }
  if (event.key === "n") addObject();
});
for (const type of ["dragenter", "dragover"]) addEventListener(type, event => {
  event.preventDefault();
  document.body.classList.add("dragging-file");
});
for (const type of ["dragleave", "drop"]) addEventListener(type, event => {
  event.preventDefault();
  if (type === "drop" || !event.relatedTarget) document.body.classList.remove("dragging-file");
});
addEventListener("drop", event => {
  if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
});

choose("include");
guarded(start)();
