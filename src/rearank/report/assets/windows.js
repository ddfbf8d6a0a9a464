// One query: its rankings by grade, and every window with what was shown, what was answered and what came of it.

const grade = (value) => value === null || value === undefined ? "unjudged" : "g" + Math.min(Math.max(value, 0), 4);
const gradeText = (value) => value === null || value === undefined ? "·" : String(value);
const chip = (value) => h("span", { class: "chip " + grade(value), title: value === null || value === undefined ? "not judged" : `grade ${value}` }, gradeText(value));

function strip(text) {
  const cells = [...text].map((one) => one === "-" ? null : Number(one)), width = 9;
  const top = cells.slice(0, 10).filter((one) => one > 0).length;
  return s("svg", { viewBox: `0 0 ${Math.max(cells.length * width + 2, 200)} 16`, class: "strip", role: "img", "aria-label": `Grades from the top: ${cells.slice(0, 10).map(gradeText).join(" ")}; ${top} relevant among the first 10` },
    cells.map((one, place) => s("rect", { x: place * width + (place >= 10 ? 2 : 0), y: 1, width: width - 1.5, height: 14, rx: 1.5, class: grade(one) }, s("title", {}, `rank ${place + 1}: ${one === null ? "not judged" : "grade " + one}`))),
    cells.length > 10 ? s("line", { x1: 10 * width + 0.2, x2: 10 * width + 0.2, y1: 0, y2: 16, class: "cut" }) : null);
}

function showQuery(explorer, place) {
  const { part, benchmark, full } = explorer;
  const shown = full.has(place);
  const head = [h("p", { class: "id" }, "query ", own("code", {}, part.ids[place])), own("h3", {}, part.texts[place] || part.ids[place])];
  const before = explorer.value(explorer.a, place);
  const rows = benchmark.systems.map((one, number) => ({ one, number, value: explorer.value(number, place), counts: part.counts[number]?.[place], strip: part.strips[number]?.[place] })).filter((row) => row.value !== null);
  const overview = table("The rankings of this query; each cell is a passage by its grade, best rank first, the line is after rank 10", [
    { title: "system", cell: (row) => row.one.label }, { title: explorer.measure.label, number: true, cell: (row) => number(row.value) },
    { title: "change", number: true, cell: (row) => row.number === explorer.a || before === null ? "" : change(row.value - before) },
    { title: "grades by rank", cell: (row) => row.strip ? strip(row.strip) : "" },
    { title: "answers", number: true, cell: (row) => row.counts ? row.counts[0] : "" }, { title: "not ok", number: true, cell: (row) => row.counts ? row.counts[1] : "" },
    { title: "tokens", number: true, cell: (row) => row.counts ? whole(row.counts[2]) : "" }, { title: "time", number: true, cell: (row) => row.counts ? duration(row.counts[3]) : "" }], rows, { quiet: true });
  const body = h("div", {}), seeds = [...new Set(benchmark.systems.map((one) => one.windows_of).filter((seed) => seed !== null))];
  const means = seeds.length ? h("p", { class: "key-line" }, `Figures are means over the seeds; grades by rank, answers and windows are those of seed ${seeds.join(" or ")}.`) : null;
  replace(explorer.detail, head, overview, gradeKey(), means, body);
  if (!shown) {
    body.append(h("p", { class: "note" }, explorer.full.size ? `Passages and answers are in this file for the ${full.size} queries that changed most (report.full_text).` : "Passages and answers aren't in this file."));
    return;
  }
  showColumns(explorer, block(`query-${explorer.place}-${place}`), body);
}

function gradeKey() {
  return h("p", { class: "key-line" }, "Grades: ", chip(null), " not judged ", chip(0), " not relevant ", [1, 2, 3].map((one) => chip(one)), " more and more relevant");
}

function showColumns(explorer, detail, body) {
  explorer.passages ||= {};
  const passages = explorer.passages[explorer.place] ||= block(`passages-${explorer.place}`);
  const choices = explorer.benchmark.systems.map((one, number) => ({ one, number })).filter(({ number }) => detail.windows[number]);
  const columns = h("div", { class: "columns" });
  const draw = () => {
    const chosen = choices.filter(({ number }) => explorer.columns.has(number));
    const opened = chosen.length ? mostMoved(detail.windows[chosen.some(({ number }) => number === explorer.b) ? explorer.b : chosen[0].number]) : 0;
    columns.className = "columns n" + Math.min(chosen.length, 3);
    replace(columns, chosen.length ? chosen.map(({ one, number }) => column(one, detail.windows[number], opened, detail, passages)) : h("p", { class: "note" }, "Choose a system to see its windows."));
  };
  replace(body, h("fieldset", { class: "choices" }, h("legend", {}, "Windows side by side"), choices.map(({ one, number }) => h("label", {}, h("input", { type: "checkbox", checked: explorer.columns.has(number), onchange: (event) => {
    if (event.target.checked) explorer.columns.add(number); else explorer.columns.delete(number);
    draw();
  } }), " ", one.label))), columns);
  draw();
}

// The same window is opened in every column: the one that the system in question changed most.
const mostMoved = (windows) => windows.reduce((best, one, place) => Math.abs(one.ndcg[1] - one.ndcg[0]) > Math.abs(windows[best].ndcg[1] - windows[best].ndcg[0]) ? place : best, 0);

function column(system, windows, opened, detail, passages) {
  return h("section", { class: "column", "aria-label": system.label }, h("h4", {}, system.label, system.windows_of === null ? null : h("span", { class: "same" }, `, seed ${system.windows_of}`)),
    windows.map((one, place) => card(one, place, windows.length, place === Math.min(opened, windows.length - 1), detail, passages, system.letters)));
}

function card(one, place, count, open, detail, passages, letters) {
  const status = one.status || "empty", moved = one.ndcg[1] - one.ndcg[0];
  const root = h("details", { class: "window", open },
    h("summary", {}, h("span", { class: "step" }, `${place + 1}/${count}`, one.sample !== undefined ? ` sample ${one.sample + 1}` : ""),
      h("span", { class: "status" }, h("span", { class: "swatch status-" + status, "aria-hidden": "true" }), STATUS[status][0]),
      h("span", { class: "ndcg" }, `nDCG ${number(one.ndcg[0], 2)} → ${number(one.ndcg[1], 2)} `, change(Number(moved.toFixed(4)))),
      h("span", { class: "cost" }, `${whole(one.tokens[1])} tokens, ${duration(one.seconds)}`),
      one.cut ? h("span", { class: "flag" }, "cut") : null, one.truncated ? h("span", { class: "flag" }, "prompt cut") : null));
  const content = () => { if (root.open && root.children.length === 1) root.append(inside(one, detail, passages, letters)); };
  root.addEventListener("toggle", content);
  content();
  return root;
}

// What a window holds is made when it is opened: nine windows of twenty passages in three columns are a lot.
function inside(one, detail, passages, letters) {
  const name = (place) => letters ? String.fromCharCode(65 + place) : String(place + 1);
  const at = (place) => { const index = one.shown[place]; const [id, title, text] = passages[detail.passages[index]]; return { index, id, title, text, grade: detail.grades[index] }; };
  const reading = h("div", { class: "reading", "aria-live": "polite" }, h("p", { class: "hint" }, "Choose a passage, or its number in the answer, to read it here."));
  const read = (place) => {
    const passage = at(place);
    replace(reading, h("p", { class: "id" }, `[${name(place)}] `, chip(passage.grade), ` first-stage rank ${passage.index + 1}, `, own("code", {}, passage.id)),
      passage.title ? own("p", { class: "title" }, passage.title) : null, own("p", {}, passage.text));
  };
  const order = (one.order || one.shown).map((index) => one.shown.indexOf(index));
  const root = h("div", { class: "inside" }, order.length ? lists(order, at, name, read, Boolean(one.order)) : null, reading, answer(one, read, name));
  const light = (event) => {
    const target = event.target.closest("[data-places]");
    const places = target ? target.dataset.places.split(" ") : [];
    for (const element of root.querySelectorAll("[data-places]")) element.classList.toggle("lit", element.dataset.places.split(" ").some((place) => places.includes(place)));
  };
  root.addEventListener("pointerover", light);
  root.addEventListener("focusin", light);
  root.addEventListener("pointerleave", light);
  return root;
}

// Left the window as it was shown, right as the answer orders it; lines join the two places of a passage.
function lists(order, at, name, read, answered) {
  const row = 26, height = order.length * row;
  const left = h("ol", { class: "shown", "aria-label": "As shown" }, order.map((_, place) => h("li", { "data-places": place }, h("span", { class: "name" }, `[${name(place)}]`), chip(at(place).grade))));
  if (!answered) return h("div", { class: "lists" }, left);
  const lines = s("svg", { viewBox: `0 0 60 ${height}`, class: "slopes", preserveAspectRatio: "none", height, "aria-hidden": "true" }, order.map((place, rank) =>
    s("path", { d: `M0 ${(place + 0.5) * row}C30 ${(place + 0.5) * row} 30 ${(rank + 0.5) * row} 60 ${(rank + 0.5) * row}`, class: `slope ${grade(at(place).grade)} ${place > rank ? "up" : place < rank ? "down" : "same"}`, "data-places": place })));
  const right = h("ol", { class: "answered", "aria-label": "As answered" }, order.map((place, rank) => {
    const passage = at(place), moved = place - rank;
    return h("li", { "data-places": place }, h("button", { type: "button", onclick: () => read(place) },
      h("span", { class: "name" }, `[${name(place)}]`), chip(passage.grade), h("span", { class: "moved " + sign(moved) }, moved ? `${moved > 0 ? "▲" : "▼"}${Math.abs(moved)}` : "–"), own("span", { class: "text" }, passage.title ? passage.title + " – " + passage.text : passage.text)));
  }));
  return h("div", { class: "lists" }, left, lines, right);
}

function answer(one, read, name) {
  return h("div", { class: "answer" }, h("h5", {}, "The answer, word by word"), own("div", { class: "words" }, one.text.map((piece) => {
    if (typeof piece === "string") return piece;
    if (piece.length === 1) return h("span", { class: "tag" }, piece[0]);
    const [text, places] = piece;
    return h("button", { type: "button", class: "mention", "data-places": places.join(" "), "aria-label": `${text}: passage ${places.map(name).join(", ")}`, onclick: () => read(places[0]) }, text);
  }), one.text.length ? null : h("em", {}, "nothing")));
}
