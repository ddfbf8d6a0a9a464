// Putting it together.

const THEMES = ["", "light", "dark"];
const THEME_TEXT = { "": ["◐", "as the system has them"], light: ["☀", "light"], dark: ["☾", "dark"] };

function theme() {
  const button = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("rearank-theme") || ""; } catch { return ""; } };
  const show = (name) => {
    document.documentElement.dataset.theme = name;
    replace(button, THEME_TEXT[name][0]);
    button.setAttribute("aria-label", "Colours: " + THEME_TEXT[name][1]);
    button.title = "Colours: " + THEME_TEXT[name][1];
  };
  let now = THEMES.includes(remembered()) ? remembered() : "";
  show(now);
  button.addEventListener("click", () => {
    now = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    show(now);
    try { localStorage.setItem("rearank-theme", now); } catch { /* a file may have no storage */ }
  });
}

function title(data) {
  const names = data.runs[0].names, one = data.runs.length === 1;
  const apart = new Set(data.arms.flatMap((arm) => arm.runs));
  const labels = [...data.arms.map((arm) => arm.runs.length > 1 ? `${arm.label}, ${arm.runs.length} runs` : arm.label), ...data.runs.filter((_, place) => !apart.has(place)).map((run) => run.label)];
  const facts = one ? [names.model, names.benchmark, names.reward && `reward ${names.reward}`, data.runs[0].seed !== null && data.runs[0].seed !== undefined && `seed ${data.runs[0].seed}`, data.runs[0].commit && `commit ${data.runs[0].commit.slice(0, 9)}`] : labels.slice(0, 12);
  return h("div", { class: "title" }, own("h1", {}, data.title), h("p", { class: "tags" }, facts.filter(Boolean).map((fact) => own("span", {}, fact)), !one && labels.length > 12 ? h("span", {}, `and ${labels.length - 12} more`) : null));
}

// Numbers of a model whose answers can't be read are those of the given order: that is said before any number.
function banner(benchmarks) {
  const lines = benchmarks.flatMap((benchmark) => benchmark.systems.filter((one) => one.note).map((one) => `${benchmark.name}: ${one.note}.`));
  return lines.length ? h("div", { class: "banner", role: "alert" }, lines.map((line) => own("p", {}, line))) : null;
}

function main() {
  theme();
  const data = block("data");
  const measured = data.benchmarks.length > 0;
  const sections = [measured ? results(data) : null, training(data.curves), measured ? new Explorer(data).root : null, parsing(data), analysesSection(data.analyses), settingsSection(data.runs, data.arms), notesSection(data.notes)].filter(Boolean);
  replace(document.getElementById("page"), title(data), banner(data.benchmarks), sections);
  replace(document.getElementById("nav"), sections.map((one) => h("li", {}, h("a", { href: "#" + one.id }, one.querySelector("h2").textContent))));
  document.documentElement.dataset.ready = "yes";
}

main();
