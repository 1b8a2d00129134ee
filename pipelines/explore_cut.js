// The threshold of a step, moved: a histogram with the cut, new counts, the pairs that change sides, the recipe's line.

import { ask, change, count, el, figure, latest, percent, recipeLine, Refused, soon, svg } from "./explore_dom.js";
import { card, withKeys } from "./explore_grid.js";

let ticket = Date.now(); // later than those of a page that was open before

/** The panel over the funnel's steps; gives a function that opens a step in it. */
export function cutPanel(panel, funnel, open) {
  const steps = funnel.filter((row) => row.cuts.length);
  const taken = funnel.filter((row) => row.is_taken).map((row) => row.step);
  if (!steps.length) {
    panel.append(el("p", { class: "nothing" }, "No step of this run has a threshold that can be moved here."));
    return () => {};
  }
  const state = { step: steps[0], cut: steps[0].cuts[0], changes: {}, range: null };
  const parts = controls(steps, state, () => choose(state.step.step, state.cut.setting), () => move());
  const out = el("div", {});
  const why = taken.length
    ? el("p", { class: "quiet hint" }, `${taken.join(", ")}: pairs are compared with each other there; to move it, edit the recipe and run again.`)
    : null;
  panel.append(parts.form, out, why ?? "");
  const fetchMoved = latest((signal) =>
    ask("/api/moved", { step: state.step.step, setting: state.cut.setting, changes: state.changes, ticket: ++ticket }, signal),
  );
  const refresh = async () => {
    out.classList.add("busy");
    try {
      const found = await fetchMoved();
      if (found === undefined) return;
      if (found.superseded) return again(); // by another page of the same explorer
      parts.show(found);
      out.replaceChildren(...result(found, state, open));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      parts.refuse(error.message);
    }
    out.classList.remove("busy");
  };
  const later = soon(60, refresh);
  const again = soon(300, refresh);
  const move = () => {
    parts.say();
    later();
  };
  const choose = (step, setting) => {
    state.step = steps.find((row) => row.step === step) ?? steps[0];
    state.cut = state.step.cuts.find((cut) => cut.setting === setting) ?? first(state.step.cuts);
    state.changes = {};
    state.range = null;
    parts.reset();
    return refresh();
  };
  return choose;
}

/** The setting that most likely is meant: one that is set. */
const first = (cuts) => cuts.find((cut) => cut.value !== null && cut.value !== 0) ?? cuts[0];

const current = (state) => (state.cut.setting in state.changes ? state.changes[state.cut.setting] : state.cut.value);

function controls(steps, state, rechoose, moved) {
  const stepBox = el("select", { id: "cut-step", change: () => ((state.step = steps.find((s) => s.step === stepBox.value)), (state.cut = first(state.step.cuts)), rechoose()) });
  stepBox.append(...steps.map((row) => el("option", { value: row.step }, row.step)));
  const settingBox = el("select", { id: "cut-setting", change: () => ((state.cut = state.step.cuts.find((c) => c.setting === settingBox.value)), rechoose()) });
  const label = el("label", { for: "cut-slider", id: "cut-label" });
  const slider = el("input", { type: "range", id: "cut-slider", input: () => set(Number(slider.value)) });
  const number = el("input", { type: "number", id: "cut-number", "aria-label": "Value of the threshold", change: () => number.value !== "" && set(Number(number.value)) });
  const unset = el("input", { type: "checkbox", id: "cut-unset", change: () => set(unset.checked ? null : Number(slider.value)) });
  const unsetLabel = el("label", {}, unset, " not set");
  const reset = el("button", { type: "button", class: "plain", click: rechoose }, "As in the run");
  const error = el("p", { id: "cut-error", class: "lost", role: "alert" });
  const set = (value) => {
    state.changes[state.cut.setting] = value;
    moved();
  };
  const say = () => {
    const value = current(state);
    unset.checked = value === null;
    number.value = value ?? "";
    if (value !== null) slider.value = value;
    const text = value === null ? "not set" : state.cut.setting === "top" ? `the best ${percent(value, 1)} of those that come` : figure(value);
    slider.setAttribute("aria-valuetext", text);
    label.replaceChildren(el("b", {}, state.cut.setting), ` = ${text} `, el("span", { class: "quiet" }, state.cut.says));
  };
  const fill = () => {
    stepBox.value = state.step.step;
    settingBox.replaceChildren(...state.step.cuts.map((cut) => el("option", { value: cut.setting }, cut.value === null ? `${cut.setting} (not set)` : cut.setting)));
    settingBox.value = state.cut.setting;
    unsetLabel.hidden = !state.cut.may_be_unset;
    error.textContent = "";
    for (const part of [slider, number, unset]) part.disabled = state.range === null;
    say();
  };
  const show = (found) => {
    error.textContent = "";
    if (state.range !== null) return;
    state.range = found.range;
    Object.assign(slider, { min: found.range.low, max: found.range.high, step: found.range.step });
    Object.assign(number, { step: state.cut.is_integer ? 1 : "any" });
    for (const part of [slider, number, unset]) part.disabled = false; // not before it is known what they go through
    say();
  };
  const form = el(
    "div",
    { class: "cut-form" },
    el("div", { class: "row" }, el("label", { for: "cut-step" }, "Step"), stepBox, el("label", { for: "cut-setting" }, "Threshold"), settingBox, unsetLabel, reset),
    el("div", { class: "slider" }, label, slider, number),
    error,
  );
  return { form, say, show, reset: fill, refuse: (text) => (error.textContent = text) };
}

function result(found, state, open) {
  return [
    found.histogram === null ? el("p", { class: "quiet" }, "No one column is compared with this setting.") : chart(found, state),
    table(found),
    found.taken.length
      ? el("p", { class: "quiet" }, `About: ${found.taken.join(", ")} would see other pairs, and its verdicts are taken as they were.`)
      : null,
    el("h3", {}, "In the recipe"),
    recipeLine(found.line),
    found.set.length ? el("p", { class: "quiet hint" }, "or, for one run: ", el("code", {}, found.set.join(" "))) : null,
    sides(found, state, open),
  ].filter((part) => part !== null);
}

function table(found) {
  const rows = [
    ["stay at this step", ...found.stays],
    ["kept in the end", ...found.kept],
  ];
  const line = ([name, was, now]) =>
    el("tr", {}, el("th", { scope: "row" }, name), ...[count(was), count(now), change(now - was)].map((text) => el("td", { class: "number" }, text)));
  const waiting = found.unmeasured.map(({ step, pairs }) =>
    el("tr", {}, el("th", { scope: "row" }, `not yet measured by ${step}`), el("td", { class: "number" }, "0"), el("td", { class: "number" }, count(pairs)), el("td", { class: "number" }, change(pairs))),
  );
  const said =
    `${count(found.stays[1])} of ${count(found.reached)} stay here, ${change(found.stays[1] - found.stays[0])}; ` +
    `${count(found.kept[1])} are kept in the end, ${change(found.kept[1] - found.kept[0])}`;
  const head = ["", "in the run", "now", "change"].map((text) => (text ? el("th", { scope: "col", class: "number" }, text) : el("td", {})));
  return el(
    "div",
    {},
    el("p", { class: "hidden-text", role: "status", id: "cut-status" }, said),
    el("table", { id: "cut-counts" }, el("caption", {}, `${count(found.reached)} pairs reached the step`), el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows.map(line), waiting)),
    found.unmeasured.length ? el("p", { class: "quiet hint" }, "A run of the recipe would measure these pairs; how many of them it keeps is not known before.") : null,
  );
}

/** Stacked bars over the column's values; the cut as a line, that of the run dashed. */
function chart(found, state) {
  const { low, high, stays, goes, missing } = found.histogram;
  const most = Math.max(1, ...stays.map((n, i) => n + goes[i]));
  const wide = 1000 / stays.length;
  const bars = stays.flatMap((n, i) => {
    const [up, more] = [(100 * n) / most, (100 * goes[i]) / most];
    return [
      svg("rect", { class: "stays", x: i * wide, width: wide * 0.94, y: 100 - up, height: up }),
      svg("rect", { class: "goes", x: i * wide, width: wide * 0.94, y: 100 - up - more, height: more }),
    ];
  });
  const at = (value) => ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * 1000;
  const mark = (value, kind) => svg("line", { class: kind, x1: at(value), x2: at(value), y1: 0, y2: 100 });
  if (state.cut.on_scale && state.cut.value !== null && state.cut.value !== found.mark) bars.push(mark(state.cut.value, "was"));
  if (found.mark !== null) bars.push(mark(found.mark, "cut"));
  const say = `Histogram of ${state.cut.column}: ${count(found.stays[1])} stay, ${count(found.reached - found.stays[1])} go`;
  const cut = found.mark === null ? [] : [el("span", { class: "key cut" }), `cut at ${figure(found.mark)}`];
  return el(
    "div",
    { class: "histogram" },
    svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": say }, bars),
    el("div", { class: "axis" }, el("span", {}, figure(low)), el("span", {}, state.cut.column), el("span", {}, figure(high))),
    el("p", { class: "legend" }, el("span", { class: "key stays" }), "stays", el("span", { class: "key goes" }), "goes", cut, missing ? `; ${count(missing)} have no value` : ""),
  );
}

function sides(found, state, open) {
  const columns = state.cut.column === null ? [] : [state.cut.column];
  const side = (title, { count: all, pairs }, id) => {
    const list = el("ul", { class: "grid small", "aria-label": title }, pairs.map((pair) => card(pair, "one", columns, open)));
    withKeys(list);
    const more = all > pairs.length ? el("p", { class: "quiet hint" }, `the ${pairs.length} nearest to the cut`) : null;
    return el("section", { id }, el("h3", {}, `${title}: ${count(all)}`), more, all ? list : el("p", { class: "nothing" }, "none"));
  };
  return el("div", { class: "sides" }, side("Would newly stay", found.gained, "gained"), side("Would newly go", found.lost, "lost"));
}
