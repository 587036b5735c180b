(() => {
  const wrong = [];
  const seen = (element) => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    return style.visibility === "visible" && style.display !== "none" && box.width > 1 && box.height > 1 &&
      !element.closest(".unseen, [hidden], head, script, noscript, style") &&
      !(element.closest("details:not([open])") && !element.closest("summary"));
  };
  const name = (element) => `${element.nodeName.toLowerCase()}.${element.getAttribute("class") ?? ""} ` +
    JSON.stringify(element.textContent.trim().slice(0, 40));

  // Every text where it is painted, line by line.
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || !seen(node.parentElement)) continue;
    const clip = node.parentElement.closest(".feed, .slots i");
    const range = document.createRange();
    range.selectNodeContents(node);
    for (let box of range.getClientRects()) {
      if (clip) {
        const by = clip.getBoundingClientRect();
        const top = Math.max(box.top, by.top), bottom = Math.min(box.bottom, by.bottom);
        const left = Math.max(box.left, by.left), right = Math.min(box.right, by.right);
        if (bottom <= top || right <= left) continue;
        box = { top, bottom, left, right };
      }
      texts.push({ box, element: node.parentElement });
    }
  }
  texts.sort((a, b) => a.box.top - b.box.top);
  for (let i = 0; i < texts.length; i += 1) {
    const a = texts[i].box;
    // The letters, without the space between the lines.
    const inner = (box) => ({ top: box.top + 2, bottom: box.bottom - 2, left: box.left + 0.5, right: box.right - 0.5 });
    const one = inner(a);
    for (let j = i + 1; j < texts.length && texts[j].box.top < a.bottom; j += 1) {
      const other = inner(texts[j].box);
      if (one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom)
        wrong.push(`overlap: ${name(texts[i].element)} and ${name(texts[j].element)}`);
    }
  }

  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) wrong.push(`wider than the window by ${wide}`);

  for (const element of document.querySelectorAll("svg, img, [role=img]")) {
    if (element.closest("[aria-hidden=true]")) continue;
    if (!element.getAttribute("aria-label")?.trim()) wrong.push(`no name: ${name(element)}`);
  }
  for (const element of document.querySelectorAll("input, section"))
    if (!element.getAttribute("aria-label") && !element.getAttribute("aria-labelledby") && !element.id)
      wrong.push(`no label: ${name(element)}`);
  for (const table of document.querySelectorAll("table"))
    if (!table.caption || [...table.querySelectorAll("th")].some((th) => !th.scope)) wrong.push(`table: ${name(table)}`);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) wrong.push("an ID twice");
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");

  // WCAG 2.1, 1.4.3: contrast of text with what is behind it.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = colour(getComputedStyle(at).backgroundColor);
      if (found[3] === 1) return found;
    }
    return colour(getComputedStyle(document.documentElement).backgroundColor);
  };
  const known = new Set();
  for (const { element } of texts) {
    const style = getComputedStyle(element);
    const ground = behind(element);
    const key = `${style.color} on ${ground}`;
    if (known.has(key)) continue;
    known.add(key);
    const [a, b] = [light(colour(style.color)), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${key} of ${name(element)}`);
  }
  return wrong.slice(0, 20);
})()
