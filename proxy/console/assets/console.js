// Follows /events: after each, the page is read again and every part that is
// marked data-live and has changed is put in the place of the old one. Without
// this script everything works the same, after a reload.
"use strict";
(() => {
  const status = document.getElementById("live");
  let source = null, asking = false, wanted = false, retry = 0;

  const say = (on) => {
    const words = on ? status.dataset.liveWords : status.dataset.lostWords;
    status.hidden = false;
    status.classList.toggle("lost", !on);
    if (status.lastElementChild.textContent !== words) status.lastElementChild.textContent = words;
  };

  // What is being used stays as it is: a part with the focus or a selection in it.
  const inUse = (part) => {
    const selection = getSelection();
    return part.contains(document.activeElement) || (!selection.isCollapsed && selection.containsNode(part, true));
  };

  const replace = (fresh) => {
    for (const old of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(old.id);
      if (!next || inUse(old)) continue;
      for (const open of old.querySelectorAll("details[id][open]")) next.querySelector("#" + CSS.escape(open.id))?.setAttribute("open", "");
      if (!old.isEqualNode(next)) old.replaceWith(document.adoptNode(next));
    }
  };

  const update = async () => {
    if (asking) { wanted = true; return; }
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
      if (!answer.ok) throw new Error("status " + answer.status);
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      say(true);
    } catch {
      say(false);
    }
    setTimeout(() => { asking = false; if (wanted) { wanted = false; update(); } }, 1000);
  };

  const open = () => {
    clearTimeout(retry);
    if (source || document.hidden) return;
    source = new EventSource("/events");
    source.addEventListener("change", update);
    source.onerror = () => {
      say(false);
      if (source && source.readyState === EventSource.CLOSED) { close(); retry = setTimeout(open, 5000); }
    };
  };

  const close = () => { if (source) source.close(); source = null; };

  // A browser has few connections to one host: tabs that nobody sees give theirs back.
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
})();
