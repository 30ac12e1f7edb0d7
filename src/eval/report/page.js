"use strict";
// The browser of single cases. Texts of cases come from anywhere: they are only ever set as text, never as markup.
(() => {
  const STEP = 25;
  const FOLD = 700;
  const FIELDS = ["part", "language", "queue", "failure", "text"];
  const cases = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  let found = [];
  let shown = 0;

  function make(tag, name, ...inside) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    for (const part of inside) {
      if (part !== null && part !== undefined) element.append(part);
    }
    return element;
  }

  // What turns the direction of writing is shown, so that no text can look like another.
  function plain(content) {
    return content.replace(/[\u202A-\u202E\u2066-\u2069]/g, (c) => "[U+" + c.charCodeAt(0).toString(16).toUpperCase() + "]");
  }

  // Text of unknown direction and length; a long one is folded.
  function text(raw, name, fold = FOLD) {
    const content = plain(raw);
    const block = make("div", "text " + (name || ""));
    block.dir = "auto";
    if (content.length <= fold * 1.3) {
      block.textContent = content;
      return block;
    }
    const half = /[\uD800-\uDBFF]/.test(content[fold - 1]) ? fold - 1 : fold;
    const beginning = make("span", "", content.slice(0, half) + " … ");
    const open = make("button", "link", "show all " + content.length + " characters");
    open.type = "button";
    open.addEventListener("click", () => { block.textContent = content; });
    block.append(beginning, open);
    return block;
  }

  function isolated(content, name) {
    return make("bdi", name, plain(content));
  }

  function short(content, most) {
    const line = content.replace(/\s+/g, " ").trim();
    return line.length > most ? Array.from(line).slice(0, most).join("") + "…" : line;
  }

  function number(value, digits) {
    return typeof value === "number" ? value.toFixed(digits) : "–";
  }

  function haystack(one) {
    if (one.haystack === undefined) {
      const parts = [one.id, one.message, one.reference, one.draft && one.draft.text, ...one.failures, ...one.slices];
      for (const item of one.evidence) parts.push(item.id, item.title, item.text);
      one.haystack = parts.filter(Boolean).join("\n").toLowerCase();
    }
    return one.haystack;
  }

  function valuesOf(one, field) {
    if (field === "failure") return one.failures;
    const value = one[field];
    return value === null || value === undefined ? [] : [value];
  }

  function fillSelect(field) {
    const counts = new Map();
    for (const one of cases) {
      for (const value of new Set(valuesOf(one, field))) counts.set(value, (counts.get(value) || 0) + 1);
    }
    const sorted = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    form.elements[field].append(new Option("all", ""));
    for (const [value, cases] of sorted) {
      form.elements[field].append(new Option(short(value, 70) + " (" + cases + ")", value));
    }
  }

  function wanted() {
    const wanted = {};
    for (const field of FIELDS) wanted[field] = form.elements[field].value;
    return wanted;
  }

  function apply() {
    const want = wanted();
    const words = want.text.toLowerCase().split(/\s+/).filter(Boolean);
    found = cases.filter((one) => {
      const fits = FIELDS.every((field) => field === "text" || !want[field] || valuesOf(one, field).includes(want[field]));
      return fits && words.every((word) => haystack(one).includes(word));
    });
    list.replaceChildren();
    shown = 0;
    showMore();
    const first = list.querySelector("details");
    if (first) first.open = true;
  }

  function showMore() {
    const from = shown;
    shown = Math.min(found.length, shown + STEP);
    for (const one of found.slice(from, shown)) list.append(caseElement(one));
    count.textContent = found.length === 0
      ? (cases.length === 0 ? "No single cases were kept." : "No case fits these filters.")
      : "Showing " + shown + " of " + found.length + (found.length < cases.length ? " (" + cases.length + " in all)." : ".");
    more.hidden = shown >= found.length;
    more.textContent = "Show " + Math.min(STEP, found.length - shown) + " more";
    const next = from > 0 ? list.children[from] : null;
    if (next) next.querySelector("summary").focus();
  }

  function caseElement(one) {
    const tags = make("span", "tags", make("span", "tag", one.part), isolated(short(one.id, 60)), one.language);
    if (one.queue) tags.append(" ", isolated(short(one.queue, 40), "tag"));
    const failures = one.failures.map((failure) => short(failure, 120)).join("; ");
    const summary = make("summary", "", tags, isolated(failures || "nothing to mend", failures ? "failed" : "faint"),
      isolated(short(one.message, 150), "say"));
    const details = make("details", "case", summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(body(one));
    });
    return details;
  }

  function body(one) {
    const left = make("div", "", make("h3", "", "Message"), text(one.message, "quote"));
    if (one.reference) left.append(make("h3", "", "Reference"), text(one.reference, "quote"));
    if (one.notes.length > 0) left.append(make("h3", "", "Notes"), pairs(one.notes));
    const values = Object.entries(one.values).map(([name, value]) => [name, number(value, 3).replace(/\.000$/, "")]);
    if (values.length > 0) {
      const folded = make("details", "", make("summary", "", values.length + " values"), pairs(values));
      left.append(folded);
    }
    if (one.slices.length > 0) left.append(make("p", "faint", "Slices: ", isolated(one.slices.join(", "))));
    const right = make("div", "");
    if (one.draft) right.append(...draft(one.draft));
    if (one.evidence.length > 0) right.append(make("h3", "", "Evidence, best first"), evidence(one.evidence));
    return make("div", "body", left, right);
  }

  function pairs(rows) {
    const table = make("dl", "pairs");
    for (const [name, value] of rows) table.append(make("dt", "", isolated(name)), make("dd", "", text(value)));
    return table;
  }

  function draft(draft) {
    const parts = [make("h3", "", "Reply (" + draft.kind + "), sentence by sentence")];
    if (draft.sentences.length === 0) parts.push(text(draft.text, "quote"));
    for (const [content, evidence, support] of draft.sentences) parts.push(sentence(content, evidence, support));
    if (draft.sentences.length > 0 && draft.text) {
      parts.push(make("details", "", make("summary", "", "The reply as it would go out"), text(draft.text, "quote")));
    }
    if (draft.invented.length > 0) parts.push(make("h3", "", "Found in no evidence"), items(draft.invented, "failed"));
    if (draft.findings.length > 0) parts.push(make("h3", "", "What the guard said"), items(draft.findings, ""));
    return parts;
  }

  function sentence(content, evidence, support) {
    const level = typeof support !== "number" ? "" : support >= 0.6 ? "high" : support >= 0.34 ? "middle" : "low";
    const word = { high: "supported", middle: "partly supported", low: "not supported" }[level] || "not judged";
    const from = evidence.length > 0 ? " by evidence " + evidence.join(", ") : ", no evidence named";
    const badge = make("span", "support", number(support, 2) + " " + word);
    return make("div", "sentence " + level, text(content), badge, make("small", "", from));
  }

  function items(texts, name) {
    const list = make("ul", "");
    for (const content of texts) list.append(make("li", "", isolated(short(content, 400), name)));
    return list;
  }

  function evidence(found) {
    const list = make("ol", "");
    for (const item of found) {
      const relevant = item.relevant === null ? null
        : make("span", item.relevant ? "relevant" : "irrelevant", item.relevant ? "relevant" : "not relevant");
      const head = make("div", "", isolated(item.title || item.id), " ", make("small", "", "similarity " + number(item.similarity, 3)),
        " ", relevant);
      if (item.title) head.append(" ", make("small", "", isolated(item.id)));
      list.append(make("li", "", head, text(item.text, "faint", FOLD / 2)));
    }
    return list;
  }

  // Filters stand in the address, so that they can be linked to: #cases?part=drafts&language=es
  function readAddress() {
    if (!location.hash.startsWith("#cases?")) return false;
    const asked = new URLSearchParams(location.hash.slice("#cases?".length));
    for (const field of FIELDS) {
      const value = asked.get(field) || "";
      const element = form.elements[field];
      if (field !== "text" && value && ![...element.options].some((option) => option.value === value)) {
        element.append(new Option(short(value, 70) + " (0)", value));
      }
      element.value = value;
    }
    return true;
  }

  function writeAddress() {
    const asked = new URLSearchParams(Object.entries(wanted()).filter(([, value]) => value));
    history.replaceState(null, "", asked.size > 0 ? "#cases?" + asked : "#cases");
  }

  function followAddress() {
    if (!readAddress()) return;
    apply();
    const section = document.getElementById("cases");
    section.scrollIntoView();
    section.focus({ preventScroll: true });
  }

  let pending = 0;
  function changed() {
    clearTimeout(pending);
    pending = setTimeout(() => { apply(); writeAddress(); }, 150);
  }

  FIELDS.filter((field) => field !== "text").forEach(fillSelect);
  form.addEventListener("input", changed);
  form.addEventListener("reset", changed);
  form.addEventListener("submit", (event) => { event.preventDefault(); changed(); });
  more.addEventListener("click", showMore);
  window.addEventListener("hashchange", followAddress);
  apply();
  followAddress();
})();
