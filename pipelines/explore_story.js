// A pair's story in a dialog: what each step measured, what it decides by, what came of it; its duplicates and parents.

import { ask, byId, count, el, figure, Refused, verdictOf } from "./explore_dom.js";

let images = {};

export function setStoryImages(runs) {
  images = runs;
}

export async function openStory(run, number) {
  const dialog = byId("story");
  let inside;
  try {
    inside = page(await ask(`/api/story/${run}/${number}`), run, number);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    inside = [top("This pair"), el("p", { class: "lost" }, error.message)];
  }
  dialog.replaceChildren(el("div", { class: "inside" }, inside));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function top(title) {
  const close = el("button", { type: "button", class: "plain", click: () => byId("story").close() }, "Close");
  return el("div", { class: "top" }, el("h2", { id: "story-title" }, title), close);
}

function page(story, run, number) {
  const { pair } = story;
  const end = story.dropped_by === null ? "kept" : `dropped by ${story.dropped_by}: ${story.reason}`;
  const facts = Object.entries(pair).filter(([name]) => !["text", "number"].includes(name));
  return [
    top(end[0].toUpperCase() + end.slice(1)),
    el(
      "div",
      { class: "about" },
      images[run] ? shown(run, number) : null,
      el("div", {}, el("blockquote", { dir: "auto" }, pair.text ?? "no caption"), list(facts)),
    ),
    related("It is a duplicate of", story.survivor, run),
    related("Its image is that of", story.parents, run),
    el("h3", {}, "Step by step"),
    el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Steps" }, table(story.chapters)),
    related("Pairs that lost to it as duplicates", story.duplicates, run),
    related("Pairs that a step added to its image", story.added, run),
  ];
}

function shown(run, number) {
  const frame = el("div", {});
  const failed = () => frame.replaceChildren(el("p", { class: "quiet" }, "no image that can be shown"));
  frame.append(el("img", { src: `/api/thumbnail/${run}/${number}/800`, alt: "The pair's image", error: failed }));
  return frame;
}

function list(entries) {
  return el("dl", { class: "facts" }, entries.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { dir: "auto" }, said(value))]));
}

const said = (value) => (value === null ? "–" : figure(value));

function table(chapters) {
  const head = ["step", "measured", "decides by", "outcome"].map((name) => el("th", { scope: "col" }, name));
  return el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, chapters.map(row)));
}

function row(chapter) {
  const outcome = chapter.state === "dropped" ? `dropped: ${chapter.reason}` : chapter.state;
  const kind = { stays: "kept", dropped: "lost" }[chapter.state] ?? "quiet";
  const measured = Object.entries(chapter.measured);
  if (chapter.not_shown.length) measured.push([chapter.not_shown.join(", "), "stored, not shown here"]);
  const name = chapter.filter === chapter.step ? chapter.step : `${chapter.step} (${chapter.filter})`;
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name),
    el("td", { "data-name": "measured" }, measured.length ? list(measured) : "–"),
    el("td", { "data-name": "decides by" }, Object.keys(chapter.decides_by).length ? list(Object.entries(chapter.decides_by)) : "–"),
    el("td", { class: kind }, outcome),
  );
}

function related(title, pairs, run) {
  if (!pairs.length) return null;
  const line = (pair) =>
    el(
      "li",
      {},
      el("button", { type: "button", class: "link", click: () => openStory(run, pair.number) }, pair.uid),
      ` ${verdictOf(pair)} `,
      el("span", { class: "quiet", dir: "auto" }, (pair.text ?? "").slice(0, 120)),
    );
  const more = pairs.length === 50 ? " (the first 50)" : "";
  return el("div", {}, el("h3", {}, `${title}${pairs.length > 1 ? `, ${count(pairs.length)}${more}` : ""}`), el("ul", {}, pairs.map(line)));
}
