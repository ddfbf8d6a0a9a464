// Training curves. A few lines: colours tell runs apart, and dashes a run's metrics in one panel. More: a panel for each
// metric and one legend for all of them, in which lines are switched on and off.

const MANY = 3; // lines, beyond which panels have one metric each

function panelLines(lines, metrics) {
  const found = [], several = lines.length > 1, many = lines.length > MANY;
  lines.forEach((line, run) => Object.entries(metrics).forEach(([name, title], kind) => {
    const series = line.series[name];
    if (series) found.push({ ...series, run, label: several ? (Object.keys(metrics).length > 1 ? `${line.label}, ${title}` : line.label) : title,
      colour: (several ? run : kind) % SERIES, dash: (many ? Math.floor(run / SERIES) : several ? kind : 0) % 4 });
  }));
  return found;
}

function training(curves) {
  const { panels, lines } = curves;
  if (!lines.length) return null;
  const many = lines.length > MANY, off = new Set();
  const shown = new Set(panels.flatMap((panel) => Object.keys(panel.metrics)));
  const others = [...new Set(lines.flatMap((line) => Object.keys(line.series)))].filter((name) => !shown.has(name)).sort();
  const draw = (title, metrics) => {
    const found = panelLines(lines, metrics).filter((one) => !off.has(one.run));
    return found.length ? lineChart(title, found, many) : null;
  };
  const main = h("div", { class: "panels" });
  const more = h("details", { class: "block" }, h("summary", {}, `All other figures (${others.length})`));
  const drawMore = () => {
    while (more.children.length > 1) more.lastChild.remove();
    if (more.open) more.append(h("div", { class: "panels" }, others.map((name) => draw(name, { [name]: name }))));
  };
  more.addEventListener("toggle", () => { if (more.open && more.children.length === 1) drawMore(); });
  const drawAll = () => { replace(main, panels.map((panel) => draw(panel.title, panel.metrics))); drawMore(); };
  const switched = (run, on) => { if (on) off.delete(run); else off.add(run); drawAll(); };
  drawAll();
  const seeds = lines.filter((line) => line.seeds > 1), counts = new Set(seeds.map((line) => line.seeds));
  const seedsShown = counts.size === 1 && seeds.length === lines.length ? `${lines[0].seeds} seeds` : `seeds (${seeds.map((line) => `${line.label}: ${line.seeds}`).join(", ")})`;
  return section("training", "Training", seeds.length ? `Lines are means over ${seedsShown}; bands reach from the lowest seed to the highest.` : null,
    many ? switches(lines, switched) : null, main, others.length ? more : null);
}

function switches(lines, switched) {
  return h("fieldset", { class: "choices switches" }, h("legend", {}, "Lines"), lines.map((line, run) => h("label", {},
    h("input", { type: "checkbox", checked: true, onchange: (event) => switched(run, event.target.checked) }), key({ colour: run % SERIES, dash: Math.floor(run / SERIES) % 4 }), line.label)));
}
