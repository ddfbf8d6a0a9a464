"use strict";
// Making elements. Every text goes in as a text node: nothing from the data is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";
// Characters that would hide, or turn the writing of what follows, are named instead: ⟨U+202E⟩.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

function plain(text) {
  return String(text).replace(UNSEEN, (c) => c === "\r" ? "" : "⟨U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(plain(child)));
  }
  return element;
}

const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const block = (id) => JSON.parse(document.getElementById(id).textContent);
const replace = (element, ...children) => { element.replaceChildren(); fill(element, {}, children); return element; };
const say = (text) => { document.getElementById("live").textContent = plain(text); };

function number(value, digits = 4) {
  if (value === null || value === undefined) return "";
  const tiny = value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits && digits > 2;
  return (tiny ? value.toExponential(1) : value.toFixed(digits)).replaceAll("-", "−");
}
const whole = (value) => Math.round(value).toLocaleString("en");
function signed(value, digits = 4) {
  if (value === null || value === undefined) return "";
  const shown = Math.abs(value).toFixed(digits);
  return Number(shown) === 0 ? "0" : (value > 0 ? "+" : "−") + shown;
}
function probability(p) {
  if (p === null || p === undefined) return "";
  return p < 0.0001 ? "< 0.0001" : p.toFixed(p < 0.01 ? 4 : 3);
}
function duration(seconds) {
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  return seconds < 120 ? seconds.toFixed(1) + " s" : (seconds / 60).toFixed(1) + " min";
}
const sign = (value) => Math.abs(value) < 5e-5 ? "same" : value > 0 ? "up" : "down";
// The direction has a mark of its own, so that colour isn't needed to read it.
const arrow = (value) => ({ up: "▲", down: "▼", same: "–" })[sign(value)];
const change = (value) => value === null ? h("span", { class: "same" }, "")
  : h("span", { class: "change " + sign(value) }, h("span", { "aria-hidden": "true" }, arrow(value) + " "), signed(value));

// columns: [{title, cell: row => node or text, number: bool}]
function table(caption, columns, rows, attributes = {}) {
  const head = columns.map((c) => h("th", { scope: "col", class: c.number ? "number" : null }, c.title));
  const body = rows.map((row) => h("tr", { class: attributes.rowClass ? attributes.rowClass(row) : null },
    columns.map((c, place) => h(place ? "td" : "th", { scope: place ? null : "row", class: c.number ? "number" : null }, c.cell(row)))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: attributes.quiet ? "unseen" : null }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

function choice(label, options, chosen, changed) {
  const select = h("select", { onchange: () => changed(select.value) },
    options.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text)));
  return h("label", { class: "field" }, h("span", {}, label), select);
}

function section(id, title, lead, ...children) {
  return h("section", { id, "aria-labelledby": id + "-title" },
    h("h2", { id: id + "-title" }, title), lead ? h("p", { class: "lead" }, lead) : null, children);
}

// Text whose direction is its own and can't leave it.
const own = (tag, attributes, ...children) => h(tag, { dir: "auto", ...attributes, class: ("own " + (attributes.class || "")).trim() }, ...children);
