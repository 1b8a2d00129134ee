// The page: loads the run at a glance, and lets funnel, condition, sorting and pages decide which pairs are shown.

import { ask, byId, count, el, latest, percent, recipeLine, Refused, svg } from "./explore_dom.js";
import { card, setImages, withKeys } from "./explore_grid.js";
import { openStory, setStoryImages } from "./explore_story.js";
import { cutPanel } from "./explore_cut.js";
import { comparePanel } from "./explore_compare.js";

const ROWS = 60;
const DEEPEST = 10000;
const POLL = 15000;
const state = { run: "one", where: "", order: null, descending: true, start: 0, columns: [] };
let overview;
let openCut = () => {};
let openCompare = () => {};

async function start() {
  history.replaceState(null, "", "/"); // the token is in the cookie now
  overview = await ask("/api/overview");
  const images = { one: overview.one.has_images, other: overview.other?.has_images };
  setImages(images);
  setStoryImages(images);
  const { one, other } = overview;
  byId("run-name").textContent = other ? `${one.root} · ${other.root}` : one.root;
  document.title = `${one.root} · pairsieve explore`;
  byId("totals").textContent = `${count(one.kept)} kept of ${count(one.pairs)} pairs, ${percent(one.kept, one.pairs)}`;
  funnel(one);
  form();
  tabs();
  openCut = cutPanel(byId("cuts"), one.funnel, openStory);
  if (other) openCompare = comparePanel(byId("compare"), overview, openStory);
  byId("tab-compare").hidden = !other;
  byId("search").hidden = one.embeddings === null;
  await show();
  setInterval(watch, POLL);
}

function funnel(run) {
  const toggle = byId("funnel-toggle");
  const expand = (is) => {
    toggle.setAttribute("aria-expanded", String(is));
    byId("funnel-box").hidden = !is;
  };
  toggle.addEventListener("click", () => expand(byId("funnel-box").hidden));
  expand(!matchMedia("(max-width: 46rem)").matches); // the pairs come first on a small screen
  byId("funnel").replaceChildren(...run.funnel.filter((row) => row.step !== "pool" || row.dropped).map((row) => funnelRow(row, run.pairs)));
}

function funnelRow(row, all) {
  const where = `dropped_by = '${row.step}'`;
  const stays = row.reached - row.dropped;
  const width = (n) => (all ? (100 * n) / all : 0);
  const bar = svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "stays", x: 0, y: 0, width: width(stays), height: 4 }),
    svg("rect", { class: "goes", x: width(stays), y: 0, width: width(row.dropped), height: 4 }));
  const reasons = row.reasons.map(({ reason, pairs }) =>
    el("li", {}, el("button", { type: "button", click: () => filterBy(reason === null ? where : `${where} AND reason = '${reason.replaceAll("'", "''")}'`) },
      el("span", {}, reason ?? "no reason"), el("span", {}, count(pairs)))));
  const move = row.cuts.length
    ? el("button", { type: "button", class: "move", title: `Move the threshold of ${row.step}`, "aria-label": `Move the threshold of ${row.step}`, click: () => (select("cuts"), openCut(row.step)) }, "◧")
    : null;
  return el("li", {},
    el("div", { class: "step" },
      el("button", { type: "button", click: () => filterBy(where) }, el("span", { class: "name" }, row.step), el("span", { class: "figures" }, `${count(row.reached)} reached, ${count(row.dropped)} dropped`)),
      move),
    bar,
    row.reasons.length ? el("ul", {}, reasons) : null);
}

function filterBy(where) {
  state.run = "one";
  byId("run").value = "one";
  byId("where").value = where;
  select("pairs");
  submit();
}

function form() {
  const runs = byId("run");
  runs.append(...["one", "other"].filter((name) => overview[name]).map((name) => el("option", { value: name }, overview[name].root)));
  byId("run-choice").hidden = !overview.other;
  runs.addEventListener("change", () => ((state.run = runs.value), columns(), submit()));
  byId("ask").addEventListener("submit", (event) => (event.preventDefault(), submit()));
  byId("clear").addEventListener("click", () => filterBy(""));
  byId("order").addEventListener("change", submit);
  byId("descending").addEventListener("change", submit);
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("as-step").addEventListener("click", asStep);
  byId("search").addEventListener("submit", (event) => (event.preventDefault(), find()));
  for (const box of document.querySelectorAll(".options details")) {
    box.addEventListener("keydown", (event) => event.key === "Escape" && (box.open = false));
  }
  withKeys(byId("grid"), turn);
  columns();
}

/** Sorting and the choice of columns follow the run; numbers come first, as scores are what one sorts by. */
function columns() {
  const all = overview[state.run].columns;
  const numbers = all.filter((column) => column.is_number && !["shard", "row"].includes(column.name));
  const rest = all.filter((column) => !column.is_number);
  const option = (column) => el("option", { value: `:${column.name}` }, column.from === "pool" || column.from === "verdict" ? column.name : `${column.name} (${column.from})`);
  byId("order").replaceChildren(el("option", { value: "pool" }, "place in the pool"), el("option", { value: "chance" }, "chance"), ...numbers.map(option), ...rest.map(option));
  byId("order").value = "chance";
  if (!state.columns.length) state.columns = numbers.filter((column) => column.from !== "pool").map((column) => column.name).slice(-3);
  const boxes = all.filter((column) => column.name !== "text").map((column) => columnBox(column.name));
  const narrow = el("input", { type: "search", "aria-label": "Find a column", placeholder: "find a column" });
  narrow.addEventListener("input", () => boxes.forEach((box) => (box.hidden = !box.textContent.toLowerCase().includes(narrow.value.toLowerCase()))));
  byId("columns").querySelector(".drop").replaceChildren(...(all.length > 20 ? [narrow] : []), ...boxes);
}

function columnBox(name) {
  const box = el("input", { type: "checkbox", checked: state.columns.includes(name) });
  box.addEventListener("change", () => {
    state.columns = box.checked ? [...state.columns, name] : state.columns.filter((other) => other !== name);
    show();
  });
  return el("label", {}, box, ` ${name}`);
}

function submit() {
  const order = byId("order").value;
  state.where = byId("where").value;
  state.order = order === "pool" ? null : order === "chance" ? "" : order.slice(1);
  state.descending = byId("descending").checked && order !== "pool";
  state.start = 0;
  show();
}

function turn(by) {
  const start = state.start + by * ROWS;
  if (start < 0 || start + ROWS > DEEPEST || (by > 0 && byId("next").disabled)) return;
  state.start = start;
  show().then(() => byId("grid").querySelector("button")?.focus({ preventScroll: by > 0 }));
}

const fetchPage = latest((signal) => ask("/api/pairs", { ...state, order: byId("order").value === "pool" ? null : state.order ?? "", rows: ROWS }, signal));

async function show() {
  byId("grid").classList.add("busy");
  try {
    const found = await fetchPage();
    if (found === undefined) return;
    byId("where-error").textContent = "";
    byId("where").removeAttribute("aria-invalid");
    fill(found.pairs, found.count);
    links();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    byId("where-error").textContent = error.message;
    byId("where").setAttribute("aria-invalid", "true");
  }
  byId("grid").classList.remove("busy");
}

function fill(pairs, all) {
  const shown = pairs.map((pair) => card(pair, state.run, state.columns, openStory));
  byId("grid").replaceChildren(...(shown.length ? shown : [el("li", { class: "nothing" }, "No pair. Clear the condition to see all.")]));
  const total = overview[state.run].pairs;
  const range = all ? `${count(state.start + 1)}–${count(state.start + pairs.length)} of ` : "";
  byId("count").textContent = `${range}${count(all)} pairs, ${percent(all, total)} of the run`;
  byId("previous").disabled = state.start === 0;
  byId("next").disabled = state.start + ROWS >= Math.min(all, DEEPEST);
}

function links() {
  for (const kind of ["npy", "csv"]) {
    byId(`uids-${kind}`).href = `/api/uids?run=${state.run}&kind=${kind}&where=${encodeURIComponent(state.where)}`;
  }
  byId("step-line").replaceChildren();
}

async function asStep() {
  const out = byId("step-line");
  try {
    const found = await ask("/api/step", { where: byId("where").value });
    const place = found.after === null ? "It may stand anywhere." : `Put it after ${found.after}.`;
    out.replaceChildren(recipeLine(found.line), el("p", { class: "quiet hint" }, place));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    out.replaceChildren(el("p", { class: "lost" }, error.message));
  }
}

async function find() {
  const text = byId("search-text").value.trim();
  if (!text) return;
  byId("count").textContent = "Looking…";
  try {
    const found = await ask("/api/search", { text });
    state.start = 0;
    fill(found.pairs, found.pairs.length);
    byId("count").textContent = `The ${found.pairs.length} nearest of ${count(found.vectors)} by ${found.model}`;
    byId("next").disabled = true;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    byId("count").textContent = error.message;
  }
}

const TABS = ["pairs", "cuts", "compare"];
let isCutOpen = false;

function select(name) {
  for (const other of TABS) {
    const tab = byId(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
    byId(other).hidden = other !== name;
  }
}

function tabs() {
  for (const name of TABS) {
    byId(`tab-${name}`).addEventListener("click", () => {
      select(name);
      if (name === "cuts" && !isCutOpen) openCut();
      if (name === "compare") openCompare();
      isCutOpen ||= name === "cuts";
    });
  }
  document.querySelector('[role="tablist"]').addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const there = TABS.filter((name) => !byId(`tab-${name}`).hidden);
    const at = there.findIndex((name) => byId(`tab-${name}`) === document.activeElement);
    if (by === undefined || at < 0) return;
    const next = byId(`tab-${there[(at + by + there.length) % there.length]}`);
    next.focus();
    next.click();
  });
}

/** Says when the run on disk is another one by now. */
async function watch() {
  try {
    if ((await ask("/api/changed")).changed) warn("The run changed on disk since this page was opened. End the explorer and start it again to see it.");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    warn(error.message);
  }
}

function warn(text) {
  byId("banner").textContent = text;
  byId("banner").hidden = false;
}

start().catch((error) => warn(error.message));
