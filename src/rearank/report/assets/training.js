// Training curves. Several runs are told apart by colour, and a run's metrics in one panel then by dashes.

function panelLines(lines, metrics) {
  const found = [], several = lines.length > 1;
  lines.forEach((line, run) => Object.entries(metrics).forEach(([name, title], kind) => {
    const series = line.series[name];
    if (series) found.push({ ...series, label: several ? (Object.keys(metrics).length > 1 ? `${line.label}, ${title}` : line.label) : title,
      colour: (several ? run : kind) % SERIES, dash: (several ? kind : 0) % 4 });
  }));
  return found;
}

function training(curves) {
  const { panels, lines } = curves;
  if (!lines.length) return null;
  const shown = new Set(panels.flatMap((panel) => Object.keys(panel.metrics)));
  const others = [...new Set(lines.flatMap((line) => Object.keys(line.series)))].filter((name) => !shown.has(name)).sort();
  const draw = (title, metrics) => { const found = panelLines(lines, metrics); return found.length ? lineChart(title, found) : null; };
  const more = h("details", { class: "block" }, h("summary", {}, `All other figures (${others.length})`));
  more.addEventListener("toggle", () => { if (more.children.length === 1) more.append(h("div", { class: "panels" }, others.map((name) => draw(name, { [name]: name })))); });
  const seeds = lines.filter((line) => line.seeds > 1).map((line) => `${line.label}: ${line.seeds}`).join(", ");
  return section("training", "Training", seeds ? `Lines are means over seeds (${seeds}); bands reach from the lowest seed to the highest.` : null,
    h("div", { class: "panels" }, panels.map((panel) => draw(panel.title, panel.metrics))), others.length ? more : null);
}
