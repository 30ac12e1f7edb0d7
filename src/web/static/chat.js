// The customer's chat: sends without leaving the page, shows what happens, and goes on after a lost connection.
"use strict";
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const main = $("#main");
  const token = main.dataset.token;

  // Enter sends, Shift+Enter makes a new line; not while a character is being composed.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target.matches?.("textarea[data-send]")) {
      event.preventDefault();
      event.target.form.requestSubmit();
    }
  });
  // The page that shows us in a frame keeps the link for the next visit.
  const embedded = document.body.classList.contains("embed") && parent !== window;
  if (embedded && token) parent.postMessage({ respondo: "conversation", token }, "*");
  if (embedded) document.addEventListener("keydown", (event) => { if (event.key === "Escape") parent.postMessage({ respondo: "close" }, "*"); });

  // Text or files are wanted, and files within the limits; the server looks at all of it again.
  const files = $("input[type=file]");
  const typed = $("textarea", files.form);
  // The names stand below; the browser's own field would say less, in the browser's own language.
  files.parentElement.classList.add("scripted");
  function choose() {
    const chosen = [...files.files];
    const fits = chosen.length <= Number(files.dataset.most) && chosen.every((file) => file.size <= Number(files.dataset.largest));
    files.setCustomValidity(fits ? "" : files.dataset.limits);
    typed.required = !chosen.length;
    $("#chosen").textContent = fits ? chosen.map((file) => file.name).join(", ") : files.dataset.limits;
  }
  files.addEventListener("change", choose);
  addEventListener("pageshow", choose);

  if (!token) {
    let sent = false;
    document.addEventListener("submit", (event) => { if (sent) event.preventDefault(); sent = true; });
    addEventListener("pageshow", () => { sent = false; });
    return;
  }

  const base = `/chat/${token}`;
  const words = main.dataset;
  const log = $("#said");
  const status = $("#status");
  const form = $("#say");
  const field = typed;

  function add(id, author, name, body, attached = []) {
    if (id && document.getElementById(`m-${id}`)) return;
    const item = document.createElement("li");
    item.className = `message ${author}`;
    if (id) item.id = `m-${id}`;
    const by = document.createElement("p");
    by.className = "by";
    const strong = document.createElement("strong");
    strong.textContent = name;
    by.append(strong);
    const text = document.createElement("div");
    text.className = "text";
    text.textContent = body;
    item.append(by, text);
    if (attached.length) item.append(fileList(attached));
    log.append(item);
    item.scrollIntoView({ block: "nearest" });
    return item;
  }

  function fileList(attached) {
    const list = document.createElement("ul");
    list.className = "files";
    list.setAttribute("aria-label", words.files);
    list.append(...attached.map((file) => {
      const item = document.createElement("li");
      const anchor = document.createElement("a");
      anchor.href = `${base}/files/${file.id}`;
      anchor.textContent = file.name;
      anchor.download = "";
      const size = document.createElement("span");
      size.className = "num";
      size.textContent = file.size;
      item.append(anchor, " ", size);
      return item;
    }));
    return list;
  }

  const send = (path, body) => fetch(base + path, { method: "POST", headers: { "x-respondo": "1" }, body });
  const post = (path, data) => send(path, new URLSearchParams(data));

  // --- saying something -------------------------------------------------------------------------------------------

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = field.value;
    const chosen = new DataTransfer();
    for (const file of files.files) chosen.items.add(file);
    if (!body.trim() && !chosen.files.length) return;
    const message = new FormData(form);
    const pending = add(null, "customer pending", words.you, body.trim() ? body : [...chosen.files].map((file) => file.name).join(", "));
    field.value = "";
    files.value = "";
    choose();
    try {
      const answer = await send("/messages", message);
      if (answer.ok) { status.textContent = words.reading; pending.remove(); return; }
      status.textContent = [413, 422, 429].includes(answer.status) ? await answer.text() : words.failed;
    } catch {
      status.textContent = words.failed;
    }
    // What was typed is not lost.
    pending.remove();
    if (!field.value) field.value = body;
    if (!files.files.length) { files.files = chosen.files; choose(); }
  });

  let told = 0;
  field.addEventListener("input", () => {
    if (Date.now() - told < 800) return;
    told = Date.now();
    post("/typing", {}).catch(() => {});
  });

  $("#feedback").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const answer = await post("/feedback", { kind: event.submitter.value });
      status.textContent = answer.ok || answer.status === 429 ? await answer.text() : words.failed;
    } catch {
      status.textContent = words.failed;
    }
  });

  // --- what happens -----------------------------------------------------------------------------------------------

  let draft = null;
  let written = "";
  function drop() { draft?.remove(); draft = null; written = ""; }
  // Whole sentences only: one that the guard takes back would otherwise have been read half.
  function whole(text) {
    const end = Math.max(text.lastIndexOf(". "), text.lastIndexOf("? "), text.lastIndexOf("! "), text.lastIndexOf("\n"));
    return end < 0 ? "" : text.slice(0, end + 1);
  }
  function show() {
    const text = whole(written);
    if (!text) return;
    draft ??= add(null, "respondo pending", `${words.assistant} · ${words.draft}`, "");
    $(".text", draft).textContent = text;
  }

  // The page holds what was said before; the stream begins behind it.
  const source = new EventSource(`${base}/events?after=${words.after}`);
  const on = (kind, act) => source.addEventListener(kind, (event) => act(JSON.parse(event.data)));
  on("message", (said) => {
    const name = { customer: words.you, agent: said.name || words.agent }[said.author] ?? words.assistant;
    if (said.author !== "customer") { drop(); }
    const had = document.getElementById(`m-${said.id}`);
    add(said.id, said.author, name, said.body, said.files);
    if (!had && said.author !== "customer" && status.textContent !== words.checking) status.textContent = "";
  });
  on("understood", () => { status.textContent = words.understood; });
  on("links", (links) => {
    const place = $("#links");
    const list = $("ul", place);
    list.replaceChildren(...links.map((link) => {
      const item = document.createElement("li");
      const anchor = document.createElement("a");
      anchor.href = link.url;
      anchor.textContent = link.title;
      anchor.target = "_blank";
      anchor.rel = "noreferrer noopener";
      item.append(anchor);
      return item;
    }));
    place.hidden = !links.length;
  });
  on("token", (text) => { written += text; show(); });
  on("cut", (sentences) => { for (const sentence of sentences) written = written.replace(sentence, ""); show(); });
  on("decided", (decision) => {
    drop();
    status.textContent = decision.automatic || decision.action === "discard" ? "" : words.checking;
  });
  on("taken", (by) => { const place = $("#person"); place.textContent = `${by.name} ${words.taken}`; place.hidden = false; });
  // A colleague has joined two conversations: this address leads to the one that goes on.
  on("merged", () => location.reload());
  on("given_back", () => { $("#person").hidden = true; });
  source.addEventListener("error", () => { status.textContent = words.offline; });
  source.addEventListener("open", () => { if (status.textContent === words.offline) status.textContent = ""; });
  addEventListener("pagehide", () => source.close());
  // Back by the browser's button: what was said meanwhile is in the page that is loaded anew.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  log.lastElementChild?.scrollIntoView({ block: "nearest" });
})();
