"use strict";
const report = JSON.parse(document.getElementById("report-data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();  // a place on the page -> what to draw there

function config() {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map(name => style.getPropertyValue(name).trim());
  const axis = {labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line};
  return {background: null, view: {stroke: null}, axis, text: {color: ink}, mark: {tooltip: true},
    legend: {labelColor: ink, titleColor: soft}, font: "system-ui, sans-serif"};
}

function draw(place, chart, table) {
  drawn.set(place, [chart, table]);
  const spec = {...report.charts[chart], datasets: {table}, autosize: {type: "fit-x", contains: "padding"}};
  window.vegaEmbed(place, spec, {actions: false, renderer: "svg", config: config()});
}

function colour(key) {
  document.querySelectorAll(".node").forEach(node => {
    const value = node.getAttribute(`data-${key}`);
    node.querySelector("rect").style.fill = !value ? "" : `var(--c${value})`;
    node.querySelector(".value").textContent = node.getAttribute(`data-text-${key}`);
  });
  document.querySelectorAll(".legend").forEach(legend => { legend.hidden = legend.dataset.view !== key; });
}

function choose(index, moved) {
  const node = report.nodes[index], detail = document.getElementById("detail");
  document.querySelectorAll(".node.chosen").forEach(other => other.classList.remove("chosen"));
  document.querySelector(`.node[data-index="${index}"]`).classList.add("chosen");
  detail.querySelector("h3").textContent = node.name;
  const list = detail.querySelector("dl");
  list.replaceChildren(...node.rows.flatMap(([what, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = what;
    text.textContent = value;
    return [term, text];
  }));
  for (const chart of ["histogram", "channels"]) {
    const place = detail.querySelector(`[data-chart="${chart}"]`);
    place.parentElement.hidden = !node.tables[chart];
    drawn.delete(place);
    if (node.tables[chart]) draw(place, chart, node.tables[chart]);
  }
  if (moved && window.innerWidth < 900) detail.scrollIntoView({behavior: "smooth", block: "nearest"});
}

document.querySelectorAll(".node, tr[data-node]").forEach(place => {
  const index = place.dataset.index ?? place.dataset.node;
  place.addEventListener("click", () => choose(index, true));
  place.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(index, true); } });
});
const select = document.getElementById("view");
select.addEventListener("change", () => colour(select.value));
document.querySelectorAll(".chart[data-table]").forEach(place => draw(place, place.dataset.chart, report.tables[place.dataset.table]));
dark.addEventListener("change", () => drawn.forEach(([chart, table], place) => draw(place, chart, table)));
colour(select.value);
choose(Number(document.querySelector(".graph").dataset.first), false);
