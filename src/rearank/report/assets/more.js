// Analyses, settings, and what is missing.

function analysesSection(parts) {
  if (!parts.length) return null;
  const cell = (value) => value === null || value === undefined ? "" : typeof value === "number" ? (Number.isInteger(value) ? whole(value) : number(value)) : String(value);
  return section("analyses", "Understanding the reasoning", null, parts.map((part) => h("div", {}, h("h3", {}, parts.length > 1 ? `${part.run}, ${part.benchmark}` : part.benchmark),
    h("div", { class: "figures" }, part.figures.map((figure) => h("figure", {}, h("img", { src: figure.source, alt: `${figure.title}: the figures are in the tables below`, loading: "lazy" }), h("figcaption", {}, figure.title)))),
    part.tables.map((one) => {
      const names = [...new Set(one.rows.flatMap(Object.keys))];
      return h("details", { class: "block", open: true }, h("summary", {}, one.title), table(one.title, names.map((name) => ({ title: name, number: one.rows.every((row) => typeof row[name] !== "string"), cell: (row) => cell(row[name]) })), one.rows, { quiet: true }));
    }))));
}

function settingsSection(runs) {
  return section("settings", "What was run, and with what", null, runs.map((run, place) => h("details", { class: "block", open: runs.length === 1 || null },
    h("summary", {}, run.label),
    run.command.length ? h("pre", { class: "command" }, "$ python " + run.command.join(" ")) : null,
    h("dl", { class: "facts" }, Object.entries({ ...run.names, seed: run.seed, commit: run.commit, python: run.python, platform: run.platform, cores: run.cores, measured: run.time,
      training: Object.entries(run.result).filter(([, value]) => value !== null).map(([key, value]) => `${key} ${typeof value === "number" && !Number.isInteger(value) ? number(value) : value}`).join(", ") || null })
      .filter(([, value]) => value !== null && value !== undefined).map(([key, value]) => h("div", {}, h("dt", {}, key), own("dd", {}, value)))),
    h("details", { class: "block" }, h("summary", {}, `Settings that aren't the defaults (${run.settings.length})`), table("Settings that aren't the defaults", [{ title: "key", cell: ([key]) => h("code", {}, key) }, { title: "here", cell: ([, , here]) => own("span", {}, here) }, { title: "default", cell: ([, before]) => before === null ? h("span", { class: "same" }, "–") : own("span", {}, before) }], run.settings, { quiet: true })),
    h("details", { class: "block" }, h("summary", {}, "Versions"), h("p", { class: "versions" }, Object.entries(run.packages).map(([name, version]) => h("span", {}, `${name} ${version}`)))))));
}

function notesSection(notes) {
  return notes.length ? section("missing", "What is missing here", null, h("ul", { class: "notes" }, notes.map((one) => h("li", {}, one)))) : null;
}
