// Pairs as cards; arrow keys move among them.

import { el, figure, verdictOf } from "./explore_dom.js";

let hasImages = {};

export function setImages(runs) {
  hasImages = runs;
}

/** One pair: its picture where the run has any, its caption, chosen columns, and its verdict (or what ``then`` comes). */
export function card(pair, run, columns, open) {
  const facts = columns.filter((name) => (pair[name] ?? null) !== null && name !== "text").map((name) => fact(name, pair[name]));
  if (pair.similarity !== undefined) facts.unshift(fact("similarity", pair.similarity));
  const then = pair.then ?? verdictOf(pair);
  const bare = !hasImages[run];
  const content = [
    bare ? null : picture(run, pair.number),
    el("span", { class: "words", dir: "auto" }, pair.text ?? el("i", { class: "quiet" }, "no caption")),
    facts.length ? el("span", { class: "facts" }, facts) : null,
    el("span", { class: `verdict ${then === "kept" ? "kept" : then.startsWith("not yet") ? "quiet" : "lost"}` }, then),
  ];
  const kind = `card plain${pair.dropped_by === null ? "" : " dropped"}${bare ? " bare" : ""}`;
  return el("li", {}, el("button", { type: "button", class: kind, click: () => open(run, pair.number) }, content));
}

function fact(name, value) {
  return el("span", {}, `${name} `, el("b", { dir: "auto" }, value === null ? "–" : figure(value)));
}

function picture(run, number) {
  const frame = el("span", { class: "picture" });
  const failed = () => frame.replaceChildren("no image");
  frame.append(el("img", { src: `/api/thumbnail/${run}/${number}/240`, alt: "", loading: "lazy", error: failed }));
  return frame;
}

/** Let arrow keys, Home and End move the focus within a list of cards; ``turn`` is given -1 or 1 for p and n. */
export function withKeys(list, turn) {
  list.addEventListener("keydown", (event) => {
    const cards = [...list.querySelectorAll("button.card")];
    const at = cards.indexOf(document.activeElement);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const wide = getComputedStyle(list).gridTemplateColumns.split(" ").length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide, Home: -at, End: cards.length - 1 - at };
    if (event.key in steps) {
      cards[Math.min(cards.length - 1, Math.max(0, at + steps[event.key]))].focus();
      event.preventDefault();
    } else if (turn && (event.key === "n" || event.key === "p")) {
      turn(event.key === "n" ? 1 : -1);
    }
  });
}
