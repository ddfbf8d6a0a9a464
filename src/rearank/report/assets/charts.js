// Lines with bands, sorted bars and shares, as SVG. Series differ by colour and by dashes or marks.

const SERIES = 6;

function ticks(low, high, count = 4) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / count, power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) found.push(Math.abs(value) < step * 1e-6 ? 0 : value);
  return found;
}

const tickText = (value) => Math.abs(value) >= 10000 ? value.toExponential(0) : String(Number(value.toPrecision(4))).replace("-", "−");

// lines: [{label, steps, mean, low?, high?, colour, dash}]; many: a legend elsewhere names them.
function lineChart(title, lines, many = false) {
  const width = 420, height = 230, left = 52, right = 10, top = 10, bottom = 30;
  const all = lines.flatMap((one) => [...(one.low || one.mean), ...(one.high || one.mean)]);
  const steps = lines.flatMap((one) => one.steps);
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (high - low < 1e-9) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
  const pad = (high - low) * 0.06; low -= pad; high += pad;
  const [first, last] = [Math.min(...steps), Math.max(...steps, Math.min(...steps) + 1)];
  const x = (step) => left + (step - first) / (last - first) * (width - left - right);
  const y = (value) => top + (high - value) / (high - low) * (height - top - bottom);
  const path = (points) => points.map(([a, b], place) => (place ? "L" : "M") + x(a).toFixed(1) + " " + y(b).toFixed(1)).join("");
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": title + ": " + lines.map((one) => `${one.label} from ${tickText(one.mean[0])} to ${tickText(one.mean[one.mean.length - 1])}`).join("; ") },
    ticks(low, high).map((value) => [
      s("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
      s("text", { x: left - 6, y: y(value) + 3.5, class: "tick end" }, tickText(value))]),
    ticks(first, last, 5).filter((step) => Number.isInteger(step)).map((step) => s("text", { x: x(step), y: height - 15, class: "tick middle" }, step)),
    s("text", { x: width - right, y: height - 4, class: "tick end" }, "step"));
  for (const [number, one] of lines.entries()) {
    const points = one.steps.map((step, place) => [step, one.mean[place]]);
    if (one.low) {
      const edge = [...one.steps.map((step, place) => [step, one.high[place]]), ...one.steps.map((step, place) => [step, one.low[place]]).reverse()];
      svg.append(s("path", { d: path(edge) + "Z", class: `band c${one.colour}${many ? " faint" : ""}` }));
    }
    svg.append(s("path", { d: path(points), class: `line c${one.colour} d${one.dash} w${Math.min(4, lines.length - 1 - number)}` })); // an equal one above hides none
    if (points.length < 15) for (const [a, b] of points) svg.append(s("circle", { cx: x(a), cy: y(b), r: 2.6, class: `dot c${one.colour}` }));
  }
  const readout = h("p", { class: "readout" + (many ? " over" : ""), "aria-hidden": "true" });
  const cursor = s("line", { y1: top, y2: height - bottom, class: "cursor", visibility: "hidden" });
  svg.append(cursor);
  const near = (one, step) => one.steps.reduce((best, value, place) => Math.abs(value - step) < Math.abs(one.steps[best] - step) ? place : best, 0);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const step = first + ((event.clientX - box.left) / box.width * width - left) / (width - left - right) * (last - first);
    const at = lines[0].steps[near(lines[0], step)];
    cursor.setAttribute("x1", x(at)); cursor.setAttribute("x2", x(at)); cursor.setAttribute("visibility", "visible");
    replace(readout, `step ${at}: `, lines.map((one) => { const place = near(one, at); return `${one.label} ${tickText(one.mean[place])}`; }).join(" · "));
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); replace(readout, "\u00a0"); });
  replace(readout, "\u00a0");
  return h("figure", { class: "panel" }, h("figcaption", {}, title), svg, many ? null : legend(lines), readout, numbers(title, lines));
}

const key = (one) => s("svg", { viewBox: "0 0 24 8", class: "key", "aria-hidden": "true" }, s("path", { d: "M0 4H24", class: `line c${one.colour} d${one.dash}` }));

function legend(lines) {
  return h("ul", { class: "legend" }, lines.map((one) => h("li", {}, key(one), one.label)));
}

// The same figures for whoever doesn't see the lines.
function numbers(title, lines) {
  const details = h("details", { class: "numbers" }, h("summary", {}, "Numbers"));
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    const steps = [...new Set(lines.flatMap((one) => one.steps))].sort((a, b) => a - b);
    const at = (one, step) => { const place = one.steps.indexOf(step); return place < 0 ? "" : tickText(one.mean[place]); };
    details.append(table(title, [{ title: "step", cell: (step) => step }, ...lines.map((one) => ({ title: one.label, number: true, cell: (step) => at(one, step) }))], steps, { quiet: true }));
  });
  return details;
}

// changes: [{place, value}], largest first. One path a side, however many queries there are.
function changeChart(changes, interval, mean, measure, width, opened) {
  const height = 240, left = 52, right = 12, top = 12, bottom = 26;
  const high = Math.max(0.05, ...changes.map((one) => one.value), interval[1]), low = Math.min(-0.02, ...changes.map((one) => one.value), interval[0]);
  const y = (value) => top + (high - value) / (high - low) * (height - top - bottom);
  const slot = (width - left - right) / Math.max(changes.length, 1);
  const gap = slot > 4 ? slot * 0.15 : 0;
  const bars = (kept) => changes.map((one, place) => kept(one.value)
    ? `M${(left + place * slot + gap / 2).toFixed(2)} ${y(0).toFixed(1)}h${(slot - gap).toFixed(2)}V${y(one.value).toFixed(1)}h${(gap - slot).toFixed(2)}Z` : "").join("");
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart wide", role: "img",
    "aria-label": `Change of ${measure} by query, sorted: mean ${signed(mean)}, 95% interval ${signed(interval[0])} to ${signed(interval[1])}` },
    ticks(low, high, 5).map((value) => [s("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
      s("text", { x: left - 6, y: y(value) + 3.5, class: "tick end" }, signed(value, 2))]),
    s("rect", { x: left, width: width - left - right, y: y(interval[1]), height: Math.max(1, y(interval[0]) - y(interval[1])), class: "interval" }),
    s("path", { d: bars((value) => value > 0), class: "bars up" }), s("path", { d: bars((value) => value < 0), class: "bars down" }),
    s("line", { x1: left, x2: width - right, y1: y(0), y2: y(0), class: "axis" }),
    s("line", { x1: left, x2: width - right, y1: y(mean), y2: y(mean), class: "mean" }),
    s("text", { x: width - right, y: y(mean) - 5, class: "tick end strong" }, `mean ${signed(mean)}`),
    s("text", { x: width - right, y: height - 8, class: "tick end" }, `${changes.length} queries, most improved first`));
  const mark = s("rect", { y: top, height: height - top - bottom, width: Math.max(slot, 2), class: "mark", visibility: "hidden" });
  svg.append(mark);
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    const place = Math.floor(((event.clientX - box.left) / box.width * width - left) / slot);
    return place >= 0 && place < changes.length ? place : null;
  };
  const readout = h("p", { class: "readout", "aria-hidden": "true" }, "Point at a bar to see its query; click to open it.");
  svg.addEventListener("pointermove", (event) => {
    const place = at(event);
    mark.setAttribute("visibility", place === null ? "hidden" : "visible");
    if (place === null) return;
    mark.setAttribute("x", left + place * slot);
    replace(readout, changes[place].text + ": ", change(changes[place].value));
  });
  svg.addEventListener("click", (event) => { const place = at(event); if (place !== null) opened(changes[place].place); });
  return h("div", {}, svg, readout);
}

// parts: [[name, count]] -> one bar of shares.
function shareBar(parts) {
  const total = parts.reduce((sum, [, count]) => sum + count, 0);
  let from = 0;
  return s("svg", { viewBox: "0 0 1000 22", preserveAspectRatio: "none", class: "shares", role: "img", "aria-label": parts.map(([name, count]) => `${STATUS[name] ? STATUS[name][0] : name} ${(100 * count / total).toFixed(1)}%`).join(", ") },
    parts.map(([name, count]) => {
      const width = 1000 * count / total, bar = s("rect", { x: from, y: 0, width, height: 22, class: "status-" + name }, s("title", {}, `${name}: ${count}`));
      from += width;
      return bar;
    }));
}
