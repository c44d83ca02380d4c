// Previews of links on hover, the filter of the ledger, and folds that open where a link points. Works from a disk.
(() => {
  const root = document.documentElement.dataset.content_root || "./";
  const base = new URL(root, document.baseURI).href;

  /* Previews: their texts come with the first hover */
  let texts = null, card = null, waiting = null;
  const load = () => (texts ??= new Promise((ready) => {
    const script = document.createElement("script");
    script.src = `${base}_static/previews.js`;
    script.onload = () => ready(window.molkitPreviews || {});
    script.onerror = () => ready({});
    document.head.append(script);
  }));
  const hide = () => { clearTimeout(waiting); card?.remove(); card = null; };

  async function show(link) {
    const address = link.href.startsWith(base) ? decodeURIComponent(link.href.slice(base.length)) : "";
    const found = (await load())[address.replace(/#$/, "")];
    if (!found || (!found.text && !found.picture) || !link.matches(":hover, :focus")) return;
    hide();
    card = document.createElement("div");
    card.className = "molkit-preview";
    card.setAttribute("role", "tooltip");
    if (found.title) card.append(Object.assign(document.createElement("strong"), { textContent: found.title }));
    card.append(Object.assign(document.createElement("span"), { textContent: found.text }));
    if (found.picture) card.append(Object.assign(document.createElement("img"), { src: base + found.picture, alt: "" }));
    document.body.append(card);
    const box = link.getBoundingClientRect(), own = card.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left), innerWidth - own.width - 8);
    const below = box.bottom + own.height + 8 < innerHeight;
    card.style.left = `${left + scrollX}px`;
    card.style.top = `${(below ? box.bottom + 6 : Math.max(8, box.top - own.height - 6)) + scrollY}px`;
  }

  for (const link of document.querySelectorAll(".bd-article a[href]")) {
    const soon = () => { clearTimeout(waiting); waiting = setTimeout(() => show(link), 200); };
    link.addEventListener("pointerenter", soon);
    link.addEventListener("focus", soon);
    link.addEventListener("pointerleave", hide);
    link.addEventListener("blur", hide);
  }
  addEventListener("keydown", (event) => event.key === "Escape" && hide());

  /* The ledger: choose a study and a verdict */
  const bar = document.querySelector(".molkit-filter"), rows = [...document.querySelectorAll("tr[data-verdict]")];
  function choice(label, kind) {
    const list = document.createElement("select");
    list.append(new Option(`all ${label}`, ""));
    for (const word of new Set(rows.map((row) => row.dataset[kind]))) list.append(new Option(word, word));
    list.setAttribute("aria-label", label);
    list.addEventListener("change", filter);
    bar.append(list);
    return list;
  }
  function filter() {
    let left = 0;
    for (const row of rows) {
      row.hidden = (study.value && row.dataset.study !== study.value) || (verdict.value && row.dataset.verdict !== verdict.value);
      left += !row.hidden;
    }
    const empty = (part) => [...part.querySelectorAll("tr[data-verdict]")].every((row) => row.hidden);
    for (const part of document.querySelectorAll(".bd-article section section, .molkit-fold:has(table), table.molkit-ledger"))
      part.hidden = (study.value || verdict.value) && empty(part);
    count.textContent = `${left} of ${rows.length} claims`;
  }
  let study, verdict, count;
  if (bar && rows.length) {
    [study, verdict] = [choice("studies", "study"), choice("verdicts", "verdict")];
    count = bar.appendChild(document.createElement("output"));
    filter();
  }

  /* A link into a fold opens it */
  function open() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target || target.tagName !== "TR") return;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    target.querySelector("details")?.setAttribute("open", "");
    target.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", open);
  open();
})();
