// Two runs: how their kept pairs overlap, what the other did with those that one alone keeps, how far scores agree.

import { ask, count, el, latest, percent, Refused, verdictOf } from "./explore_dom.js";
import { card, withKeys } from "./explore_grid.js";

const ROWS = 48;

export function comparePanel(panel, overview, open) {
  const names = { one: overview.one.root, other: overview.other.root };
  const state = { side: "one", step: null, reason: null, start: 0 };
  const heading = el("h3", { id: "sides-title", "aria-live": "polite" });
  const grid = el("ul", { class: "grid", "aria-labelledby": "sides-title", id: "sides-grid" });
  const error = el("p", { class: "lost", role: "alert" });
  const turn = (by) => {
    state.start = Math.max(0, state.start + by * ROWS);
    show();
  };
  const previous = el("button", { type: "button", class: "plain", click: () => turn(-1) }, "Previous");
  const next = el("button", { type: "button", class: "plain", click: () => turn(1) }, "Next");
  withKeys(grid, turn);
  const fetchSides = latest((signal) => ask("/api/sides", { ...state, rows: ROWS }, signal));
  const show = async () => {
    grid.classList.add("busy");
    try {
      const found = await fetchSides();
      if (found === undefined) return;
      heading.textContent = `${title(state, names)}: ${count(found.count)}`;
      grid.replaceChildren(...found.pairs.map((pair) => beside(pair, open)));
      previous.disabled = state.start === 0;
      next.disabled = state.start + ROWS >= found.count;
      error.textContent = "";
    } catch (refused) {
      if (!(refused instanceof Refused)) throw refused;
      error.textContent = refused.message;
    }
    grid.classList.remove("busy");
  };
  const pick = (side, step = null, reason = null) => {
    Object.assign(state, { side, step, reason, start: 0 });
    show();
  };
  const tables = el("div", {}, el("p", { class: "nothing" }, "Comparing…"));
  panel.append(tables, correlations(overview.shared), el("div", { class: "row over" }, heading, el("p", {}, previous, " ", next)), error, grid);
  let isLoaded = false;
  return async () => {
    if (isLoaded) return;
    isLoaded = true;
    const found = await ask("/api/overlap");
    tables.replaceChildren(...overlap(found, names, pick));
    pick(found.one ? "one" : found.other ? "other" : "both");
  };
}

function title({ side, step, reason }, names) {
  const kept = { both: "Kept by both", one: `Kept by ${names.one} only`, other: `Kept by ${names.other} only`, none: "Kept by neither" }[side];
  return step === null ? kept : `${kept}; the other: ${step}${reason ? `, ${reason}` : ""}`;
}

function beside(pair, open) {
  const there = pair.there === null ? "not in the other pool" : verdictOf(pair.there);
  return card({ ...pair, then: `${verdictOf(pair)} / ${there}` }, pair.run, [], open);
}

function overlap(found, names, pick) {
  const kept = { one: found.both + found.one, other: found.both + found.other };
  const either = found.both + found.one + found.other;
  const cell = (side, of) => el("td", { class: "number" }, el("button", { type: "button", class: "link", click: () => pick(side) }, count(found[side])), ` ${percent(found[side], of)}`);
  const row = (name, side) => el("tr", {}, el("th", { scope: "row" }, name), cell(side, either));
  return [
    el("table", { id: "overlap" },
      el("caption", {}, `${names.one} keeps ${count(kept.one)}, ${names.other} ${count(kept.other)}; Jaccard ${found.jaccard.toFixed(4)}`),
      el("tbody", {}, row("kept by both", "both"), row(`kept by ${names.one} only`, "one"), row(`kept by ${names.other} only`, "other"),
        el("tr", {}, el("th", { scope: "row" }, "kept by neither"), el("td", { class: "number" }, el("button", { type: "button", class: "link", click: () => pick("none") }, count(found.none)))))),
    el("div", { class: "sides" },
      verdicts(`Only ${names.one} keeps: what ${names.other} did`, "one", found.only_one, pick),
      verdicts(`Only ${names.other} keeps: what ${names.one} did`, "other", found.only_other, pick)),
  ];
}

function verdicts(caption, side, rows, pick) {
  const line = ({ step, reason, pairs }) =>
    el("tr", {}, el("th", { scope: "row" }, el("button", { type: "button", class: "link", click: () => pick(side, step, reason) }, reason ? `${step}: ${reason}` : step)), el("td", { class: "number" }, count(pairs)));
  return el("div", { class: "wide" }, el("table", { id: `only-${side}` }, el("caption", {}, caption), el("tbody", {}, rows.length ? rows.map(line) : el("tr", {}, el("td", { class: "quiet" }, "none")))));
}

function correlations(shared) {
  if (!shared.length) return el("p", { class: "quiet hint" }, "The runs share no column of numbers.");
  const out = el("span", { role: "status", id: "correlation" });
  const box = el("select", { id: "shared" }, shared.map((name) => el("option", { value: name }, name)));
  const show = async () => {
    const found = await ask(`/api/correlation?column=${encodeURIComponent(box.value)}`);
    out.textContent = found.spearman === null ? " not defined" : ` ${found.spearman.toFixed(4)} over ${count(found.pairs)} pairs`;
  };
  return el("p", { class: "row" }, el("label", { for: "shared" }, "Rank correlation (Spearman) of"), box, el("button", { type: "button", class: "plain", click: show }, "Compute"), out);
}
