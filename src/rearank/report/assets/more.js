// Analyses, settings, and what is missing.

// What stands between backticks is a name.
const coded = (text) => String(text).split("`").map((part, place) => place % 2 ? h("code", {}, part) : part);

function analysesSection(parts) {
  if (!parts.length) return null;
  const cell = (value) => value === null || value === undefined ? "" : typeof value === "number" ? (Number.isInteger(value) ? whole(value) : number(value)) : String(value);
  return section("analyses", "Understanding the reasoning", null, parts.map((part) => h("div", {}, h("h3", {}, parts.length > 1 ? `${part.run}, ${part.benchmark}` : part.benchmark),
    h("div", { class: "figures" }, part.figures.map((figure) => h("figure", {}, h("img", { src: figure.source, alt: `${figure.title}: the figures are in the tables below`, decoding: "async" }), h("figcaption", {}, figure.title)))),
    part.tables.map((one) => {
      const names = [...new Set(one.rows.flatMap(Object.keys))];
      return h("details", { class: "block", open: one.rows.length <= 12 }, h("summary", {}, own("span", {}, one.title), ` (${one.rows.length})`), one.note ? own("p", { class: "note" }, coded(one.note)) : null, table(one.title, names.map((name) => ({ title: name, number: one.rows.every((row) => typeof row[name] !== "string"), cell: (row) => cell(row[name]) })), one.rows, { quiet: true }));
    }))));
}

// Settings that aren't the same in all runs, side by side; of an arm the first run's, whose seeds differ in nothing else.
function differences(runs, arms) {
  const shown = arms.length > 1 ? arms.map((arm) => ({ ...runs[arm.runs[0]], label: arm.label, seed: null })) : runs;
  const settings = shown.map((run) => new Map([["seed", ["", run.seed]], ...run.settings.map(([key, before, here]) => [key, [before, here]])]));
  const keys = [...new Set(settings.flatMap((one) => [...one.keys()]))];
  const known = (key) => settings.map((one) => one.get(key)).find(Boolean)[0] ?? "–";
  const rows = keys.map((key) => [key, settings.map((one) => String(one.has(key) ? one.get(key)[1] : known(key)))]).filter(([, values]) => new Set(values).size > 1);
  if (shown.length < 2 || !rows.length) return null;
  const found = table("How the runs differ", [{ title: "key", cell: ([key]) => h("code", {}, key) }, ...shown.map((run, place) => ({ title: run.label, cell: ([, values]) => own("span", {}, values[place]) }))], rows, { quiet: arms.length > 1 });
  return arms.length > 1 ? h("details", { class: "block" }, h("summary", {}, `Settings that differ between arms (${rows.length})`), found) : found;
}

function armTable(arms) {
  if (arms.length < 2) return null;
  return table(`${arms.length} arms`, [{ title: "arm", cell: (arm) => arm.label }, { title: "what it sets", cell: (arm) => arm.changes.length ? arm.changes.map((one, place) => [place ? " " : "", own("code", {}, one)]) : h("span", { class: "same" }, "nothing: the study's own settings") },
    { title: "seeds", cell: (arm) => arm.seeds.filter(Boolean).join(", ") }], arms);
}

function settingsSection(runs, arms) {
  const one = (run) => runFacts(run, runs.length === 1);
  const apart = new Set(arms.flatMap((arm) => arm.runs));
  return section("settings", "What was run, and with what", null, armTable(arms), differences(runs, arms),
    arms.map((arm) => arm.runs.length > 1 ? h("details", { class: "block" }, h("summary", {}, `${arm.label} (${arm.runs.length} runs)`), h("div", { class: "nested" }, arm.runs.map((place) => one(runs[place])))) : one(runs[arm.runs[0]])),
    runs.filter((_, place) => !apart.has(place)).map(one));
}

// A run's own figures, in a line.
const counted = (figures) => Object.entries(figures).filter(([, value]) => value !== null).map(([key, value]) => `${key} ${typeof value === "number" && !Number.isInteger(value) ? number(value) : value}`).join(", ") || null;

function runFacts(run, open) {
  return h("details", { class: "block", open: open || null },
    h("summary", {}, run.label),
    run.command.length ? h("pre", { class: "command" }, "$ python " + run.command.join(" ")) : null,
    h("dl", { class: "facts" }, Object.entries({ ...run.names, seed: run.seed, commit: run.commit, python: run.python, platform: run.platform, cores: run.cores, measured: run.time,
      training: counted(run.result), reranked: counted(run.reranked) })
      .filter(([, value]) => value !== null && value !== undefined).map(([key, value]) => h("div", {}, h("dt", {}, key), own("dd", {}, value)))),
    h("details", { class: "block" }, h("summary", {}, `Settings that aren't the defaults (${run.settings.length})`), table("Settings that aren't the defaults", [{ title: "key", cell: ([key]) => h("code", {}, key) }, { title: "here", cell: ([, , here]) => own("span", {}, here) }, { title: "default", cell: ([, before]) => before === null ? h("span", { class: "same" }, "–") : own("span", {}, before) }], run.settings, { quiet: true })),
    h("details", { class: "block" }, h("summary", {}, "Versions"), h("p", { class: "versions" }, Object.entries(run.packages).map(([name, version]) => h("span", {}, `${name} ${version}`)))));
}

function notesSection(notes) {
  return notes.length ? section("missing", "What is missing here", null, h("ul", { class: "notes" }, notes.map((one) => h("li", {}, one)))) : null;
}
