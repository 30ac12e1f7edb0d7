// The desk: keys, live lists, the streaming draft and its evidence. Pages work without it, less comfortably.
"use strict";
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const say = (text) => { const place = $("#said"); if (place) place.textContent = text; };

  // --- keys -------------------------------------------------------------------------------------------------------

  const typing = (target) => target.closest?.("input:not([type=hidden]), textarea, select, [contenteditable]");
  const rows = () => $$("#lines .row a");

  function move(by) {
    const links = rows();
    if (!links.length) return;
    const now = links.findIndex((link) => link.closest(".row").contains(document.activeElement));
    const next = now < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(now + by, 0), links.length - 1);
    links[next].focus();
    links[next].scrollIntoView({ block: "nearest" });
  }

  function sentence(by) {
    const claims = $$(".claim[tabindex]");
    if (!claims.length) return;
    const now = claims.indexOf(document.activeElement);
    const next = now < 0 ? (by > 0 ? 0 : claims.length - 1) : (now + by + claims.length) % claims.length;
    claims[next].focus();
  }

  function press(key) {
    const visible = (element) => !element.closest("[hidden]") && !element.disabled;
    const found = $$(`[data-key="${CSS.escape(key)}"]`).filter(visible)[0];
    if (!found) return false;
    if (found.matches("input")) { found.focus(); found.select(); }
    else if (found.matches("summary")) { found.parentElement.open = true; $("textarea, input:not([type=hidden])", found.parentElement)?.focus(); }
    else found.click();
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) {
      event.preventDefault();
      event.target.form.requestSubmit();
      return;
    }
    if (event.key === "Escape" && typing(event.target)) { event.target.blur(); closeBoxes(); return; }
    if (event.key === "Escape") { closeBoxes(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || $("dialog[open]")) return;
    const own = { j: () => move(1), k: () => move(-1), "]": () => sentence(1), "[": () => sentence(-1), "?": () => $("#keys")?.showModal() };
    if (own[event.key]) { event.preventDefault(); own[event.key](); }
    else if (event.key === "q" && !$("[data-key=q]")) location.href = "/desk";
    else if (press(event.key)) event.preventDefault();
  });

  // --- buttons that open something --------------------------------------------------------------------------------

  function closeBoxes() { $$(".box").forEach((box) => { box.hidden = true; }); }

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]");
    if (opener) $("#" + opener.dataset.open)?.showModal();
    const toggle = event.target.closest("[data-toggle]");
    if (toggle) {
      const box = $("#" + toggle.dataset.toggle);
      const open = box.hidden;
      closeBoxes();
      box.hidden = !open;
      if (open) $("textarea, input:not([type=hidden])", box)?.focus();
    }
    const insert = event.target.closest("[data-insert]");
    if (insert) {
      // Into the reply that is being edited, else into a message of one's own.
      const edit = $("#edit-box");
      if (!edit) $("#write-box").parentElement.open = true;
      else if (edit.hidden) { closeBoxes(); edit.hidden = false; }
      const field = $("textarea", edit ?? $("#write-box"));
      field.value = field.value.trim() ? `${field.value.trimEnd()}\n\n${insert.dataset.insert}` : insert.dataset.insert;
      field.focus();
    }
    const claim = event.target.closest(".claim[tabindex]");
    if (claim) light(claim, true);
  });

  // A form is sent once; a second press of a key must not send it again.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method === "dialog") return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "1";
  });
  addEventListener("pageshow", () => $$("form[data-sent]").forEach((form) => delete form.dataset.sent));

  // --- sentences and their evidence -------------------------------------------------------------------------------

  function light(claim, show) {
    $$(".lit").forEach((element) => element.classList.remove("lit"));
    if (!claim) return;
    claim.classList.add("lit");
    const marks = $$("mark[data-used]").filter((mark) => mark.dataset.used.split(" ").includes(claim.dataset.claim));
    marks.forEach((mark) => mark.classList.add("lit"));
    if (show) marks[0]?.scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("mouseover", (event) => { const claim = event.target.closest(".claim[tabindex]"); if (claim) light(claim, false); });
  document.addEventListener("focusin", (event) => { const claim = event.target.closest(".claim[tabindex]"); if (claim) light(claim, true); });

  // --- the time in which a reply can be taken back ----------------------------------------------------------------

  function countDown(from) {
    $$("button[data-seconds]", from).forEach((button) => {
      let left = Number(button.dataset.seconds);
      const text = button.textContent;
      const tick = () => {
        if (left <= 0) { button.closest("form").hidden = true; return; }
        button.textContent = `${text} (${left})`;
        left -= 1;
        setTimeout(tick, 1000);
      };
      tick();
    });
  }

  // --- streams ---------------------------------------------------------------------------------------------------

  // A browser keeps six connections to a site: pages that nobody looks at let theirs go, and catch up when they are seen.
  function live(address, listen, catchUp) {
    let source = null;
    const open = () => { source = new EventSource(address); listen(source); };
    const close = () => { source?.close(); source = null; };
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) close();
      else if (!source) { open(); catchUp(); }
    });
    addEventListener("pagehide", close);
    addEventListener("pageshow", (event) => { if (event.persisted && !source) { open(); catchUp(); } });
    if (!document.hidden) open();
  }

  // --- live lists -------------------------------------------------------------------------------------------------

  const list = $("#rows[data-live]");
  if (list) {
    let waiting = null;
    let stale = false;
    // Many changes at once are one look. Who has scrolled into further pages keeps them until they are back at the top.
    const deep = () => scrollY > 0 && rows().length > 50;
    function refresh() {
      if (deep()) { stale = true; return; }
      stale = false;
      waiting ??= setTimeout(() => { waiting = null; if (deep()) stale = true; else htmx.trigger(list, "refresh"); }, 300);
    }
    addEventListener("scroll", () => { if (stale && !scrollY) refresh(); }, { passive: true });
    live(list.dataset.live, (source) => source.addEventListener("change", refresh), refresh);
    let focused = null;
    document.addEventListener("htmx:beforeSwap", (event) => {
      if (event.detail.target === list) focused = document.activeElement?.closest?.(".row")?.id;
    });
    document.addEventListener("htmx:afterSettle", (event) => {
      if (event.detail.target === list && focused) $(`#${CSS.escape(focused)} a`)?.focus({ preventScroll: true });
    });
  }

  // --- one ticket -------------------------------------------------------------------------------------------------

  const ticket = $("#ticket");
  if (ticket) {
    const panel = $("#panel");
    // Nobody's typing is swapped away under their hands.
    const busy = () => $$(".box, .note-box").some((box) => !box.hidden && $$("textarea, input:not([type=hidden])", box)
      .some((field) => field.value !== field.defaultValue || field === document.activeElement));
    let waiting = null;
    function refresh() {
      if (busy()) { say(ticket.dataset.changed); return; }
      waiting ??= setTimeout(() => { waiting = null; htmx.trigger(panel, "refresh"); }, 150);
    }
    document.addEventListener("htmx:beforeSwap", (event) => {
      if (event.detail.target === panel && busy()) { event.detail.shouldSwap = false; say(ticket.dataset.changed); }
    });
    let written = "";
    function show(text) {
      const place = $("#stream");
      if (!place) return;
      place.hidden = false;
      $("#stream-text").textContent = text;
    }
    // What happened before is in the page; the stream begins behind it, also when it is opened again.
    live(ticket.dataset.events, (source) => {
      written = "";
      source.addEventListener("token", (event) => { written += JSON.parse(event.data); show(written); });
      // Until the model writes, the reply cut from the best solved case.
      source.addEventListener("extractive", (event) => { if (!written) show(JSON.parse(event.data).text); });
      source.addEventListener("cut", (event) => {
        for (const finding of JSON.parse(event.data)) written = written.replace(finding.sentence, "");
        show(written);
      });
      // These begin or end a reply; what else happens leaves the one that is being written as it is.
      for (const kind of ["received", "decision", "review"]) {
        source.addEventListener(kind, () => { written = ""; refresh(); });
      }
      for (const kind of ["message", "taken", "given_back", "taken_back", "changed", "feedback", "merged"]) {
        source.addEventListener(kind, refresh);
      }
      source.addEventListener("presence", (event) => {
        const others = JSON.parse(event.data);
        const place = $("#presence");
        place.hidden = !others.length;
        place.textContent = others.length ? `${ticket.dataset.others} ${others.join(", ")}` : "";
      });
    }, refresh);
    document.addEventListener("htmx:afterSettle", (event) => {
      if (event.detail.target !== panel) return;
      countDown(panel);
      if (written) show(written);
    });
  }

  countDown(document);
})();
