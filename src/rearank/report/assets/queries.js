// Query by query: who changed, found by searching and sorting; one of them is opened next to the list.

const ROWS = 15;

const ORDERS = {
  improved: ["most improved", (a, b) => (b.change ?? -9) - (a.change ?? -9)],
  worsened: ["most worsened", (a, b) => (a.change ?? 9) - (b.change ?? 9)],
  changed: ["largest change", (a, b) => Math.abs(b.change ?? 0) - Math.abs(a.change ?? 0)],
  lowest: ["lowest after", (a, b) => (a.after ?? 9) - (b.after ?? 9)],
  notOk: ["most answers that are not ok", (a, b) => (b.counts?.[1] ?? 0) - (a.counts?.[1] ?? 0)],
  tokens: ["most tokens", (a, b) => (b.counts?.[2] ?? 0) - (a.counts?.[2] ?? 0)],
  given: ["as in the collection", () => 0],
};

// An address is anyone's: one with a broken escape names no query, and the first is opened.
function unescaped(text) {
  try { return decodeURIComponent(text); } catch { return null; }
}

class Explorer {
  constructor(data) {
    this.data = data;
    this.part = null;
    this.search = ""; this.order = "improved"; this.at = 0; this.selected = null;
    this.controls = h("div", { class: "controls" });
    this.overview = h("div", { class: "overview" });
    this.list = h("div", { class: "list" });
    this.detail = h("article", { class: "detail", tabindex: "-1", "aria-label": "The chosen query" });
    this.root = section("queries", "Query by query", null, this.controls, this.overview, h("div", { class: "explorer" }, this.list, this.detail));
    this.searching = h("input", { type: "search", placeholder: "words or a query id", oninput: () => { this.search = this.searching.value.toLowerCase(); this.at = 0; this.showRows(); } });
    let waiting = 0;
    addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => this.showOverview(), 150); });
    const wanted = /^#q\/(\d+)\/(.*)$/.exec(location.hash);
    this.open(wanted && data.benchmarks[wanted[1]] ? Number(wanted[1]) : 0, wanted ? unescaped(wanted[2]) : null);
  }

  // Benchmark `place`; its first query in view is opened, or the one with this id.
  open(place, id = null) {
    this.place = place;
    this.benchmark = this.data.benchmarks[place];
    this.part = block(`queries-${place}`);
    this.full = new Set(this.part.full);
    this.measure = this.benchmark.measures[0];
    const systems = this.benchmark.systems.map((one, number) => ({ ...one, number })).filter((one) => one.role !== "ideal");
    this.a = systems[0].number;
    this.b = systems.reduce((best, one) => (one.means[this.measure.key] ?? -1) > (best.means[this.measure.key] ?? -1) && one.role === "system" ? one : best, systems.find((one) => one.role === "system") || systems[0]).number;
    const windows = systems.filter((one) => this.hasWindows(one.number)).map((one) => one.number);
    // Next to it, what it is compared with: the untrained model, the first arm, or the training half-way.
    const others = [systems.find((one) => one.name === "base"), baselineArm(systems), ...systems.filter((one) => one.name !== this.benchmark.systems[this.b].name)];
    const other = others.find((one) => one && one.number !== this.b && windows.includes(one.number));
    this.columns = new Set([other ? other.number : null, this.b].filter((one) => windows.includes(one)));
    this.at = 0; this.selected = null;
    this.showControls();
    this.refresh(id === null ? null : this.part.ids.indexOf(id));
  }

  hasWindows(number) { return Boolean(this.part.counts[number]); }

  value(system, query) { const found = this.part.values[this.measure.key]?.[system]?.[query]; return found === undefined ? null : found; }

  label(system) { return this.benchmark.systems[system].label; }

  showControls() {
    const systems = this.benchmark.systems.map((one, number) => [number, one.label]);
    const set = (key, convert) => (value) => { this[key] = convert(value); this.at = 0; this.refresh(this.selected); };
    replace(this.controls,
      this.data.benchmarks.length > 1 ? choice("Benchmark", this.data.benchmarks.map((one, place) => [place, one.name]), this.place, (value) => this.open(Number(value))) : null,
      choice("Before", systems, this.a, set("a", Number)), choice("After", systems, this.b, (value) => { this.columns.delete(this.b); this.b = Number(value); if (this.hasWindows(this.b)) this.columns.add(this.b); this.at = 0; this.refresh(this.selected); }),
      choice("Measure", this.benchmark.measures.map((one, place) => [place, one.label]), this.benchmark.measures.indexOf(this.measure), set("measure", (value) => this.benchmark.measures[value])));
    this.searching.value = this.search;
    this.ordering = choice("Sort", Object.entries(ORDERS).map(([key, [title]]) => [key, title]), this.order, (value) => { this.order = value; this.at = 0; this.showRows(); });
    this.found = h("p", { class: "found", role: "status" });
    this.rows = h("ol", { class: "rows" });
    this.pager = h("div", { class: "pager" });
    replace(this.list, h("div", { class: "tools" }, h("label", { class: "field grow" }, h("span", {}, "Search"), this.searching), this.ordering), this.found, this.rows, this.pager);
    this.list.onkeydown = (event) => this.step(event);
  }

  refresh(selected) {
    this.all = this.part.ids.map((id, place) => {
      const before = this.value(this.a, place), after = this.value(this.b, place);
      return { place, id, text: this.part.texts[place] || id, before, after, change: before === null || after === null ? null : after - before, counts: this.part.counts[this.b]?.[place] };
    });
    this.showOverview();
    this.showRows();
    const first = this.shown[0];
    if (selected !== null && selected >= 0) this.choose(selected, false);
    else if (first) this.choose(first.place, false);
  }

  showOverview() {
    const both = this.all.filter((one) => one.change !== null).sort((a, b) => b.change - a.change);
    if (!both.length) { replace(this.overview, h("p", { class: "note" }, "These two share no query.")); return; }
    const mean = both.reduce((sum, one) => sum + one.change, 0) / both.length;
    const variance = both.reduce((sum, one) => sum + (one.change - mean) ** 2, 0) / Math.max(both.length - 1, 1);
    const half = 1.96 * Math.sqrt(variance / both.length);
    const count = (kept) => both.filter((one) => kept(sign(one.change))).length;
    replace(this.overview, h("p", { class: "lead" }, h("strong", {}, this.label(this.b)), " against ", h("strong", {}, this.label(this.a)), ": ",
      change(mean), ` on average (95% interval ${signed(mean - half)} to ${signed(mean + half)}); `,
      h("span", { class: "up" }, `better on ${count((one) => one === "up")}`), `, same on ${count((one) => one === "same")}, `, h("span", { class: "down" }, `worse on ${count((one) => one === "down")}`), "."),
    changeChart(both.map((one) => ({ place: one.place, value: one.change, text: one.text.slice(0, 120) })), [mean - half, mean + half], mean, this.measure.label, this.width(), (place) => this.choose(place, true)));
  }

  // Drawn as wide as it is shown, so that its writing has the page's size.
  width() { return Math.min(1236, Math.max(320, document.documentElement.clientWidth - 84)); }

  showRows() {
    const found = this.all.filter((one) => !this.search || one.text.toLowerCase().includes(this.search) || one.id.toLowerCase().includes(this.search));
    this.shown = found.slice().sort(ORDERS[this.order][1]);
    const pages = Math.max(1, Math.ceil(found.length / ROWS));
    this.at = Math.min(Math.max(this.at, 0), pages - 1);
    replace(this.found, found.length === this.all.length ? `${found.length} queries` : `${found.length} of ${this.all.length} queries`);
    replace(this.rows, this.shown.slice(this.at * ROWS, (this.at + 1) * ROWS).map((one) => this.row(one)));
    this.rows.setAttribute("start", this.at * ROWS + 1);
    const turn = (by, text, off) => h("button", { type: "button", disabled: off, onclick: () => { this.at += by; this.showRows(); } }, text);
    replace(this.pager, turn(-1, "← Previous", this.at === 0), h("span", {}, `page ${this.at + 1} of ${pages}`), turn(1, "Next →", this.at === pages - 1));
  }

  row(one) {
    const x = (value) => 3 + value * 94;
    return h("li", {}, h("button", { type: "button", class: "row", "data-place": one.place, "aria-current": one.place === this.selected ? "true" : null, onclick: () => this.choose(one.place, true) },
      own("span", { class: "text" }, one.text),
      h("span", { class: "under" }, one.before === null || one.after === null ? h("span", {}, "no value")
        : [s("svg", { viewBox: "0 0 100 10", class: "dumbbell", "aria-hidden": "true" }, s("line", { x1: 3, x2: 97, y1: 5, y2: 5, class: "grid" }),
          s("line", { x1: x(one.before), x2: x(one.after), y1: 5, y2: 5, class: "span " + sign(one.change) }), s("circle", { cx: x(one.before), cy: 5, r: 2.6, class: "before" }), s("circle", { cx: x(one.after), cy: 5, r: 3, class: "after " + sign(one.change) })),
        h("span", { class: "values" }, `${number(one.before, 3)} → ${number(one.after, 3)}`), change(one.change)],
      one.counts && one.counts[1] ? h("span", { class: "flag" }, `${one.counts[1]} not ok`) : null)));
  }

  // Up and down go along the rows and over the pages' ends.
  step(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], row = event.target.closest(".row");
    if (!by || !row) return;
    event.preventDefault();
    const place = this.shown.findIndex((one) => one.place === Number(row.dataset.place)) + by;
    if (place < 0 || place >= this.shown.length) return;
    if (Math.floor(place / ROWS) !== this.at) { this.at = Math.floor(place / ROWS); this.showRows(); }
    this.rows.querySelector(`[data-place="${this.shown[place].place}"]`).focus();
  }

  choose(place, asked) {
    this.selected = place;
    for (const row of this.rows.querySelectorAll(".row")) {
      if (Number(row.dataset.place) === place) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
    }
    showQuery(this, place);
    if (!asked) return;
    try { history.replaceState(null, "", `#q/${this.place}/${encodeURIComponent(this.part.ids[place])}`); } catch { /* not allowed everywhere */ }
    say(`Query opened: ${this.part.texts[place] || this.part.ids[place]}`);
    this.detail.focus({ preventScroll: true });
    const box = this.detail.getBoundingClientRect();
    if (box.top > innerHeight - 120 || box.bottom < 120) this.detail.scrollIntoView({ block: "start" });
  }
}
