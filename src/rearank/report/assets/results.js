// What came out: the figures that matter, the table next to published numbers, seeds and tests.

const STATUS = {
  ok: ["ok", "each passage named exactly once"],
  partial: ["partial", "some passages weren't named; they follow in their given order"],
  duplicates: ["duplicates", "a passage was named twice"],
  out_of_range: ["out of range", "a number that is no passage of the window"],
  no_answer_tag: ["no answer tag", "no complete <answer> … </answer>"],
  unclosed_think: ["unclosed think", "the reasoning never ended, cut at the token limit as a rule"],
  empty: ["empty", "nothing, or no passage named"],
};

// The system at the end of the first arm, which the others are compared with; null where no arms stand side by side.
function baselineArm(systems) {
  const arms = systems.filter((one) => one.arm !== null);
  const last = arms.filter((one) => one.name === arms[arms.length - 1].name);
  return last.length > 1 ? last[0] : null;
}

const seedCount = (one) => Object.keys(one.seeds).length || 1;

const MOST_SEEDS = 10; // that have columns of their own

function heroes(benchmark) {
  const measure = benchmark.measures[0], first = benchmark.systems[0];
  const shown = benchmark.systems.filter((one) => one.role !== "ideal");
  const best = shown.reduce((a, b) => (b.means[measure.key] ?? -1) > (a.means[measure.key] ?? -1) ? b : a, first);
  const base = shown.find((one) => one.name === "base" && one.arm === null) || shown.find((one) => one.name === "base");
  const arm = baselineArm(shown);
  const cards = [...new Set([first, arm && base && base.arm !== null ? null : base, arm, best].filter(Boolean))];
  const against = (one) => [change(one.means[measure.key] - first.means[measure.key]), " against the first stage",
    arm && one === best && one !== arm ? [h("br", {}), change(one.means[measure.key] - arm.means[measure.key]), ` against ${arm.arm}`] : null,
    seedCount(one) > 1 ? [h("br", {}), `mean of ${seedCount(one)} seeds`] : null];
  return h("div", { class: "heroes" }, cards.map((one) => h("div", { class: "hero" + (one === best ? " best" : "") },
    h("span", { class: "what" }, one.label), h("span", { class: "value" }, number(one.means[measure.key])),
    h("span", { class: "under" }, one === first ? `${measure.label}, ${benchmark.name}, ${one.queries} queries` : against(one)))));
}

function intervalCell(one, key) {
  const found = one.intervals[key];
  return found ? `${number(found[0])} – ${number(found[1])}` : "";
}

function dotPlot(benchmark) {
  const key = benchmark.measures[0].key, rows = benchmark.systems;
  const ends = rows.flatMap((one) => one.intervals[key] || [one.means[key]]).concat(rows.filter((one) => one.published).map((one) => one.published.value / 100), rows.flatMap((one) => Object.values(one.seeds)));
  let [low, high] = [Math.min(...ends), Math.max(...ends)];
  const pad = (high - low) * 0.08 || 0.05; low = Math.max(0, low - pad); high = Math.min(1, high + pad);
  const x = (value) => 6 + (value - low) / (high - low) * 288;
  return (one) => {
    const interval = one.intervals[key] || [one.means[key], one.means[key]];
    return s("svg", { viewBox: "0 0 300 20", class: "dots", "aria-hidden": "true" },
      ticks(low, high, 3).map((value) => s("line", { x1: x(value), x2: x(value), y1: 0, y2: 20, class: "grid" })),
      s("line", { x1: x(interval[0]), x2: x(interval[1]), y1: 10, y2: 10, class: "whisker" }),
      one.published ? s("path", { d: `M${x(one.published.value / 100)} 4l5 6l-5 6l-5 -6Z`, class: "printed" }) : null,
      Object.values(one.seeds).map((mean) => s("line", { x1: x(mean), x2: x(mean), y1: 1, y2: 19, class: "seed" })),
      s("circle", { cx: x(one.means[key]), cy: 10, r: 4.5, class: "point " + one.role.replace(" ", "-") }));
  };
}

// Beside nDCG@10: the share of the first 10 passages that is judged. A reranker lifts unjudged ones, which count as bad.
function judgedColumn(measure) {
  return measure.key === "ndcg_cut_10" ? [{ title: "judged@10", number: true, cell: (one) => one.judged === null ? "" : number(one.judged) }] : [];
}

function resultTable(benchmark) {
  const [main, ...others] = benchmark.measures, plot = dotPlot(benchmark);
  const first = benchmark.systems[0], printed = benchmark.systems.some((one) => one.published);
  const several = benchmark.systems.some((one) => seedCount(one) > 1);
  const cost = benchmark.systems.some((one) => one.calls.cost);
  const columns = [
    { title: "system", cell: (one) => one.note ? `${one.label} (unread)` : one.label },
    { title: main.label, number: true, cell: (one) => h("strong", {}, number(one.means[main.key])) },
    { title: "95% interval", number: true, cell: (one) => intervalCell(one, main.key) },
    ...judgedColumn(main),
    { title: printed ? "● here, ◆ published" : "mean and interval", cell: plot },
    ...(several ? [{ title: "seeds", number: true, cell: (one) => one.role === "system" ? seedCount(one) : "" }] : []),
    { title: "against the first stage", number: true, cell: (one) => one === first ? "" : change(one.means[main.key] - first.means[main.key]) },
    ...(printed ? [{ title: "published", number: true, cell: (one) => one.published ? one.published.value.toFixed(2) : "" }] : []),
    ...others.flatMap((measure) => [{ title: measure.label, number: true, cell: (one) => number(one.means[measure.key]) }, ...judgedColumn(measure)]),
    { title: "answers", number: true, cell: (one) => one.calls.calls ? whole(one.calls.calls / seedCount(one)) : "" },
    { title: "tokens", number: true, cell: (one) => one.calls.completion_tokens ? whole(one.calls.completion_tokens / seedCount(one)) : "" },
    ...(cost ? [{ title: "US$", number: true, cell: (one) => one.calls.cost ? one.calls.cost.toFixed(2) : "" }] : []),
    { title: "failed queries", number: true, cell: (one) => one.calls.failed ? whole(one.calls.failed) : one.role === "system" ? "0" : "" },
  ];
  return table(`${benchmark.name}: ${first.queries} queries; intervals are 95% bootstrap${several ? " over the queries, each averaged over the seeds; a thin mark is a seed's mean, answers and tokens are a seed's" : ""}`, columns, benchmark.systems, { rowClass: (one) => one.role.replace(" ", "-") });
}

function publishedNotes(benchmark) {
  const printed = benchmark.systems.filter((one) => one.published);
  const known = Object.entries(benchmark.known);
  return h("ul", { class: "notes" },
    printed.map((one) => h("li", {}, `Published ${one.published.value}: ${one.published.row}, ${one.published.source}, by ${one.published.by}.`,
      one.published.differences.length ? ` Here: ${one.published.differences.join("; ")}.` : " In the same setting.")),
    known.length ? h("li", {}, "BM25 is known to have here: " + known.map(([source, value]) => `${number(value)} (${source})`).join(", ") + ".") : null);
}

function seedTable(rows) {
  if (!rows.length) return null;
  const seeds = [...new Set(rows.flatMap((row) => Object.keys(row.each)))];
  return h("div", {}, h("h3", {}, "Over seeds"), table("Each run's mean, over the seeds of the same settings", [
    { title: "run", cell: (row) => row.run }, { title: "system", cell: (row) => row.system }, { title: "seeds", number: true, cell: (row) => row.seeds },
    { title: "mean", number: true, cell: (row) => h("strong", {}, number(row.mean)) }, { title: "sd", number: true, cell: (row) => number(row.sd) },
    { title: "lowest", number: true, cell: (row) => number(row.low) }, { title: "highest", number: true, cell: (row) => number(row.high) },
    ...(seeds.length > MOST_SEEDS ? [] : seeds.map((seed) => ({ title: `seed ${seed}`, number: true, cell: (row) => number(row.each[seed]) })))], rows));
}

function testTable(benchmark) {
  const { rows, note } = benchmark.tests;
  if (!rows.length) return note ? h("p", { class: "note" }, note) : null;
  const seeds = rows.some((row) => row.p_over_seeds !== null);
  return h("details", { class: "block", open: rows.length <= 15 }, h("summary", {}, "Paired tests"),
    table(note, [
      { title: "b", cell: (row) => row.b }, { title: "against a", cell: (row) => row.a }, { title: "b − a", number: true, cell: (row) => change(row.difference) },
      { title: "p (t-test)", number: true, cell: (row) => probability(row.p) }, { title: "Holm", number: true, cell: (row) => probability(row.holm) },
      { title: "p (randomisation)", number: true, cell: (row) => probability(row.p_randomisation) },
      ...(seeds ? [{ title: "p over seeds", number: true, cell: (row) => probability(row.p_over_seeds) }] : []),
      { title: "better / same / worse", number: true, cell: (row) => `${row.wins} / ${row.ties} / ${row.losses}` }], rows));
}

function results(data) {
  return section("results", "Results", null, data.benchmarks.map((benchmark, place) => h("div", { class: "benchmark" },
    data.benchmarks.length > 1 ? h("h3", {}, benchmark.name) : null, place === 0 ? heroes(benchmark) : null,
    resultTable(benchmark), publishedNotes(benchmark), seedTable(benchmark.seeds), testTable(benchmark))));
}

function parsing(data) {
  const rows = data.benchmarks.flatMap((benchmark) => benchmark.systems.filter((one) => Object.keys(one.statuses).length).map((one) => ({ benchmark, one })));
  if (!rows.length) return null;
  const seen = Object.keys(STATUS).filter((name) => rows.some(({ one }) => one.statuses[name]));
  const total = (one) => Object.values(one.statuses).reduce((a, b) => a + b, 0);
  return section("answers", "How answers were read", "An answer that can't be read fully still gives an order: what it named comes first, the rest as given. This is how often that was so.",
    h("ul", { class: "legend" }, seen.map((name) => h("li", {}, h("span", { class: "swatch status-" + name }), h("strong", {}, STATUS[name][0]), " – " + STATUS[name][1]))),
    table("Parse statuses by system", [
      { title: "system", cell: ({ one }) => one.label },
      ...(data.benchmarks.length > 1 ? [{ title: "benchmark", cell: ({ benchmark }) => benchmark.name }] : []),
      { title: "answers", number: true, cell: ({ one }) => whole(total(one)) },
      { title: "shares", cell: ({ one }) => shareBar(seen.map((name) => [name, one.statuses[name] || 0]).filter(([, count]) => count)) },
      ...seen.map((name) => ({ title: STATUS[name][0], number: true, cell: ({ one }) => whole(one.statuses[name] || 0) })),
      { title: "cut at the limit", number: true, cell: ({ one }) => whole(one.calls.cut_answers || 0) },
      { title: "prompts cut", number: true, cell: ({ one }) => whole(one.calls.truncated_prompts || 0) }], rows, { quiet: true }));
}
