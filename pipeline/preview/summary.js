"use strict";

// The run as a whole: numbers, facts, charts. First, the few helpers that all scripts use.

/** An element; strings become text nodes, so nothing from the data is ever parsed as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value; // an attribute would be text to parse
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}
const count = number => number.toLocaleString("en");
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
const percent = share => `${(100 * share).toFixed(share < 0.001 ? 3 : share < 0.1 ? 2 : 1)} %`;
const total = numbers => numbers.reduce((sum, number) => sum + number, 0);
const modulo = (value, base) => ((value % base) + base) % base;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const readJson = element => JSON.parse(element.textContent);
const summary = readJson(document.getElementById("data"));
const panels = [...document.querySelectorAll("script.panel")].map(readJson);

const SIZES = ["small", "medium", "large"];

function drawSummary() {
  const {panoramas, instances} = summary;
  const objects = total(Object.values(summary.object_sizes));
  const shown = panels.length < panoramas
    ? `${count(panels.length)} of ${count(panoramas)} panoramas, evenly spaced, are shown below; `
      + "the numbers are over all of them."
    : "All panoramas are shown below.";
  const tile = (value, label, note) =>
    make("div", {class: "card tile"},
      make("b", {}, value), label, note ? make("div", {class: "faint"}, note) : null);
  const facts = Object.entries(summary.facts).map(([name, values]) => make("div", {},
    make("dt", {}, name),
    make("dd", {}, values.map(([text, times]) =>
      values.length > 1 ? `${text} (${count(times)})` : text).join("; "))));
  document.getElementById("summary").append(
    make("h1", {}, summary.name),
    make("p", {class: "faint"}, shown),
    make("div", {class: "tiles"},
      tile(count(panoramas), panoramas === 1 ? "panorama" : "panoramas"),
      tile(count(summary.scenes), summary.scenes === 1 ? "scene" : "scenes"),
      tile(count(instances), "instances",
        `${count(instances - objects)} are structure (walls, floors, …)`),
      tile((instances / panoramas).toFixed(1), "masks per panorama",
        `${(objects / panoramas).toFixed(1)} without structure; paper ${summary.paper.masks}`)),
    make("dl", {class: "card facts"}, ...facts),
    make("div", {class: "charts"}, sizeChart(), histogram(), categoryChart()));
}

function sizeChart() {
  const bar = (label, sizes) => {
    const all = total(SIZES.map(size => sizes[size] || 0)) || 1;
    const part = size => {
      const share = (sizes[size] || 0) / all, title = `${size}: ${percent(share)}`;
      return make("span", {class: size, style: `width:${100 * share}%`, title},
        share > 0.1 ? `${(100 * share).toFixed(1)}%` : "");
    };
    return [make("span", {}, label), make("div", {class: "bar"}, ...SIZES.map(part))];
  };
  return make("section", {class: "card"},
    make("h2", {}, "Sizes", ...SIZES.flatMap(size =>
      [make("span", {class: `key ${size}`}), make("span", {class: "faint"}, size)])),
    make("div", {class: "shares"},
      ...bar("this run", summary.sizes),
      ...bar("no structure", summary.object_sizes),
      ...bar("paper", summary.paper.sizes)));
}

function histogram() {
  const numbers = Object.entries(summary.masks).map(([masks, times]) => [Number(masks), times]);
  const most = Math.max(...numbers.map(([masks]) => masks));
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find(size => most / size <= 12) || 5000;
  const bins = new Array(Math.floor(most / step) + 1).fill(0);
  for (const [masks, times] of numbers) bins[Math.floor(masks / step)] += times;
  const tallest = Math.max(...bins);
  return make("section", {class: "card filling"},
    make("h2", {}, "Instances per panorama"),
    make("div", {class: "histogram"}, ...bins.map((number, i) => make("div",
      {title: `${plural(number, "panorama")} with ${i * step} to ${(i + 1) * step - 1} instances`},
      number || "",
      make("i", {style: `flex:0 0 calc((100% - 32px) * ${number / tallest})`}),
      i * step))));
}

function categoryChart() {
  const shown = summary.categories.slice(0, 30);
  const rest = summary.categories.length - shown.length;
  return make("section", {class: "card"},
    make("h2", {}, `Categories (${count(summary.categories.length)})`),
    make("div", {class: "categories"}, ...shown.map(([name, number]) =>
      make("div", {class: "category"},
        make("span", {title: name}, name),
        make("i", {style: `width:${100 * number / shown[0][1]}%`}),
        make("span", {class: "number"}, count(number))))),
    rest > 0 ? make("p", {class: "faint"}, `and ${count(rest)} rarer`) : null);
}
