// Keeps the page up to date: fetches it again every five seconds and puts its new <main> in place of the old one.
// Without this script the page is the same, and a reload brings what is new.
(() => {
  "use strict";
  const pause = 5000;
  const banner = document.getElementById("connection");
  let last = null;

  const openDetails = () => [...document.querySelectorAll("main details[open][id]")].map((details) => details.id);

  const refresh = async () => {
    // What somebody is about to confirm, or writes into a form, does not change under their hands.
    if (document.hidden || document.querySelector("main form.confirm") || document.activeElement?.matches("main form *:not(button)")) return;
    try {
      const response = await fetch(location.href, { cache: "no-store", redirect: "error" });
      // An environment that is gone answers 404, and that page says so.
      if (!response.ok && response.status !== 404) throw new Error(String(response.status));
      const text = await response.text();
      banner.hidden = true;
      if (text === last) return;
      const next = new DOMParser().parseFromString(text, "text/html");
      const [from, to] = [next.querySelector("main"), document.querySelector("main")];
      if (!from || !to || getSelection()?.type === "Range") return;
      const open = openDetails();
      const focused = document.activeElement?.closest("main a[href]")?.getAttribute("href");
      const pressed = document.activeElement?.closest("main button[id]")?.id;
      last = text;
      to.replaceWith(document.adoptNode(from));
      document.title = next.title;
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      if (focused) document.querySelector(`main a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
      if (pressed) document.getElementById(pressed)?.focus({ preventScroll: true });
    } catch {
      banner.hidden = false;
    }
  };

  setInterval(refresh, pause);
  document.addEventListener("visibilitychange", refresh);
})();
