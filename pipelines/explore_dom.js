// Elements, questions to the server, and numbers as people read them. Text from a run only ever becomes a text node.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (functions are listeners, null and false are left out) and children. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** What the server refuses, in its words. */
export class Refused extends Error {}

/** An answer in JSON: GET, or POST where there is a body. A later question may end an earlier one by its signal. */
export async function ask(path, body, signal) {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, { signal, credentials: "same-origin", ...(body === undefined ? {} : post) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("the explorer does not answer; was it ended?");
  }
  if (!(answer.headers.get("content-type") || "").startsWith("application/json")) throw new Refused((await answer.text()).trim());
  const found = await answer.json();
  if (found.error !== undefined) throw new Refused(found.error);
  return found;
}

/** Runs one question at a time: a new one ends the one before, whose answer is then never shown. */
export function latest(work) {
  let under = null;
  return async (...given) => {
    under?.abort();
    const own = (under = new AbortController());
    try {
      return await work(own.signal, ...given);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      return undefined;
    }
  };
}

export function soon(milliseconds, work) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}

const whole = new Intl.NumberFormat("en-US");

export const count = (number) => whole.format(number);

export const change = (number) => (number > 0 ? `+${count(number)}` : number < 0 ? `−${count(-number)}` : "±0");

/** A score: four significant digits of what is no whole number. */
export function figure(value) {
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4)));
}

export function percent(part, all) {
  return all ? `${((100 * part) / all).toFixed(1)} %` : "–";
}

/** A button that copies a text, and says so. */
export function copyButton(text, name = "Copy") {
  const said = el("span", { role: "status", class: "quiet" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      said.textContent = " copied";
    } catch {
      said.textContent = " select the text and copy it";
    }
  };
  return el("span", {}, el("button", { type: "button", class: "plain", click: copy }, name), said);
}

/** A line of YAML to take along. */
export function recipeLine(text) {
  return el("div", { class: "line" }, el("pre", {}, el("code", {}, text)), copyButton(() => text, "Copy line"));
}

export const verdictOf = (pair) =>
  pair.dropped_by === null ? "kept" : `${pair.dropped_by}: ${pair.reason ?? "dropped"}`;
