"use strict";
(() => {
  const EVERY = 5000, PATIENCE = 10000;
  const $ = (id) => document.getElementById(id);
  document.documentElement.classList.add("js");

  // === one document becomes the other, in place: scroll, focus, selection and open parts stay ===
  const attributes = (old, now) => {
    const keep = (name) => name === "open" && old.nodeName === "DETAILS";
    for (const { name } of [...old.attributes])
      if (!now.hasAttribute(name) && !keep(name)) old.removeAttribute(name);
    for (const { name, value } of now.attributes)
      if (old.getAttribute(name) !== value && !keep(name)) old.setAttribute(name, value);
  };
  const become = (old, now) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== now.data) old.data = now.data;
    } else if (!old.isEqualNode(now)) {
      attributes(old, now);
      children(old, now);
    }
  };
  const children = (old, now) => {
    const known = new Map();
    for (const child of old.children) if (child.id) known.set(child.id, child);
    let at = old.firstChild;
    for (const next of now.childNodes) {
      const found = next.id ? known.get(next.id) : at && !at.id && at.nodeName === next.nodeName ? at : null;
      if (!found) old.insertBefore(document.importNode(next, true), at);
      else if (found === at) at = at.nextSibling;
      else old.insertBefore(found, at);
      if (found) become(found, next);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  };

  // === the filter ===
  const filter = () => {
    const input = $("filter");
    if (!input) return;
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    for (const row of document.querySelectorAll("#containers tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      all += 1;
      shown += row.hidden ? 0 : 1;
    }
    $("shown").textContent = words.length ? `${shown} of ${all}` : "";
  };
  const open = () => {
    for (const part of document.querySelectorAll("#containers details")) part.open = true;
  };
  document.addEventListener("input", (event) => {
    if (event.target.id !== "filter") return;
    if (event.target.value) open();
    filter();
  });

  // === from a slot to its pod's containers ===
  document.addEventListener("click", (event) => {
    const pod = event.target.closest("[data-pod]")?.dataset.pod;
    if (!pod || !event.target.closest(".slots, .strip")) return;
    const rows = [...document.querySelectorAll("#containers tr[data-pod]")].filter((row) => row.dataset.pod === pod);
    if (!rows.length) return;
    $("filter").value = "";
    filter();
    open();
    for (const row of document.querySelectorAll("tr.found")) row.classList.remove("found");
    for (const row of rows) row.classList.add("found");
    rows[0].scrollIntoView({ block: "center" });
  });

  // === live ===
  let timer = 0;
  const look = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      const now = new DOMParser().parseFromString(await answer.text(), "text/html");
      // Another program, with another script and style.
      if (now.body.dataset.build !== document.body.dataset.build) return location.reload();
      const found = new Set([...document.querySelectorAll("tr.found")].map((row) => row.id));
      become($("page"), now.getElementById("page"));
      for (const id of found) $(id)?.classList.add("found");
      document.title = now.title;
      become($("icon"), now.getElementById("icon"));
      filter();
      $("silent").hidden = true;
    } catch {
      $("silent").hidden = false;
    }
    timer = setTimeout(look, EVERY);
  };
  document.addEventListener("visibilitychange", look);
  timer = setTimeout(look, EVERY);
})();
