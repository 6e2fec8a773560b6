"use strict";

// Helpers of all scripts, and the header of the page.

/** An element. Strings become text nodes, so data is never parsed as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value; // allowed by the page's policy
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}
const count = number => number.toLocaleString("en");
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
const percent = share => `${(100 * share).toFixed(share < 0.001 ? 3 : share < 0.1 ? 2 : 1)} %`;
const modulo = (value, base) => ((value % base) + base) % base;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const readJson = element => JSON.parse(element.textContent);
const summary = readJson(document.getElementById("data"));
const panels = [...document.querySelectorAll("script.panel")].map(readJson);

function drawHeader() {
  const {panoramas, scenes, instances, objects} = summary;
  const shown = panels.length < panoramas
    ? `${count(panels.length)} of ${count(panoramas)} panoramas, evenly spaced.`
    : "All panoramas.";
  const tile = (value, label, note) => make("div", {class: "card tile"},
    make("b", {}, value), label, note ? make("div", {class: "faint"}, note) : null);
  const facts = Object.entries(summary.made_with).map(([name, values]) => make("div", {},
    make("dt", {}, name.replace("_", " ")),
    make("dd", {}, values.map(({value, panoramas: times}) =>
      values.length > 1 ? `${value} (${count(times)})` : value).join("; "))));
  document.getElementById("summary").append(
    make("h1", {}, summary.name),
    make("p", {class: "faint"}, `${shown} Figures: make stats. Check of all pixels: make verify.`),
    make("div", {class: "tiles"},
      tile(count(panoramas), panoramas === 1 ? "panorama" : "panoramas"),
      tile(count(scenes), scenes === 1 ? "scene" : "scenes"),
      tile(count(instances), "instances",
        `${count(instances - objects)} are structure (walls, floors, …)`),
      tile((instances / panoramas).toFixed(1), "masks per panorama",
        `${(objects / panoramas).toFixed(1)} without structure; paper ${summary.paper_masks}`)),
    make("dl", {class: "card facts"}, ...facts));
}
