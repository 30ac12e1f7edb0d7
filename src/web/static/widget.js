// Respondo's chat for any site: <script src="https://support.example.com/widget.js" defer></script>
// Attributes: data-label, data-title, data-colour, data-text-colour, data-side (left or right), data-language (es or en),
// data-queue, data-product. Nothing is loaded before the button is pressed.
"use strict";
(() => {
  const script = document.currentScript;
  if (!script || document.querySelector("respondo-chat")) return;
  const origin = new URL(script.src).origin;
  const set = script.dataset;
  const spanish = (set.language || document.documentElement.lang || navigator.language || "").toLowerCase().startsWith("es");
  const label = set.label || (spanish ? "Ayuda" : "Help");
  const title = set.title || (spanish ? "Chat de soporte" : "Support chat");
  const key = "respondo-conversation " + origin;
  const remembered = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const remember = (token) => { try { localStorage.setItem(key, token); } catch { /* private mode: the link is in the frame */ } };

  // A sheet that is constructed is allowed where style elements are not.
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :host { all: initial; }
    button { position: fixed; bottom: 20px; right: 20px; z-index: 2147483000; border: 0; border-radius: 99px; padding: 12px 20px; min-height: 48px; cursor: pointer;
      font: 600 16px/1.2 system-ui, sans-serif; background: var(--colour, #1f5fbf); color: var(--text, #fff); box-shadow: 0 2px 12px rgb(0 0 0 / .25); }
    button:focus-visible { outline: 3px solid #fff; outline-offset: -5px; }
    iframe { position: fixed; bottom: 84px; right: 20px; z-index: 2147483000; width: min(400px, calc(100vw - 40px)); height: min(640px, calc(100vh - 110px)); border: 0; border-radius: 12px;
      background: Canvas; box-shadow: 0 4px 30px rgb(0 0 0 / .3); color-scheme: light dark; }
    iframe[hidden] { display: none; }
    .left { right: auto; left: 20px; }
    @media (max-width: 480px) { iframe, iframe.left { left: 0; right: 0; bottom: 76px; width: 100vw; height: calc(100vh - 80px); border-radius: 12px 12px 0 0; } }
  `);
  const host = document.createElement("respondo-chat");
  const root = host.attachShadow({ mode: "open" });
  root.adoptedStyleSheets = [sheet];
  if (set.colour) host.style.setProperty("--colour", set.colour);
  if (set.textColour) host.style.setProperty("--text", set.textColour);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.setAttribute("aria-expanded", "false");
  root.append(button);
  if (set.side === "left") button.className = "left";

  let frame = null;
  function address() {
    const token = remembered();
    const query = new URLSearchParams({ embed: "1" });
    if (set.language) query.set("lang", set.language);
    if (token && /^[0-9a-f]{64}$/.test(token)) return `${origin}/chat/${token}?${query}`;
    if (set.queue) query.set("queue", set.queue);
    if (set.product) query.set("product", set.product);
    return `${origin}/chat?${query}`;
  }
  function toggle(open) {
    if (open && !frame) {
      frame = document.createElement("iframe");
      frame.title = title;
      frame.className = button.className;
      frame.src = address();
      root.append(frame);
    }
    if (frame) frame.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "✕" : label;
    button.setAttribute("aria-label", open ? (spanish ? "Cerrar el chat" : "Close the chat") : label);
    if (open) frame.focus(); else button.focus();
  }
  button.addEventListener("click", () => toggle(!frame || frame.hidden));
  root.addEventListener("keydown", (event) => { if (event.key === "Escape" && frame && !frame.hidden) toggle(false); });
  addEventListener("message", (event) => {
    if (!frame || event.source !== frame.contentWindow || event.origin !== origin || !event.data) return;
    if (event.data.respondo === "conversation" && /^[0-9a-f]{64}$/.test(event.data.token)) remember(event.data.token);
    if (event.data.respondo === "close") toggle(false);
  });
  (document.body || document.documentElement).append(host);
})();
