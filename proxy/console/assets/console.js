// Copies ids, takes "/" to the search, and follows /events: after each, the page is
// read again and every part that is marked data-live and has changed is put in the
// place of the old one. Without this script everything else works, after a reload.
"use strict";
(() => {
  document.documentElement.classList.add("js");
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch { // over plain http a browser has no clipboard but this
      const field = document.createElement("textarea");
      field.value = button.dataset.copy;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  });
  document.addEventListener("keydown", (event) => {
    const search = document.querySelector("input[type=search]");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || !search || event.target.closest?.("input, select, textarea")) return;
    event.preventDefault();
    search.focus();
    search.select();
  });

  const status = document.getElementById("live");
  if (!status) return;
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
