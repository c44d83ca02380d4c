// Put into a page by the check of the book: is it wider than its window, are equations cut off, can its text be read?
// The answer, a list of sentences, is left in the attribute data-looks of the root element.
(() => {
  const CONTRAST = 4.5, CONTRAST_LARGE = 3.0; // WCAG 2, level AA
  const MOST = 5; // sentences
  const WIDE = 1000; // pixels

  const channels = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);

  function luminance([red, green, blue]) {
    const linear = (value) => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    };
    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  }

  function background(element) {
    for (let node = element; node; node = node.parentElement) {
      const style = getComputedStyle(node), colour = channels(style.backgroundColor);
      if (style.backgroundImage !== "none") return null; // a picture: nothing can be said
      if (colour.length === 3 || colour[3] > 0.5) return colour;
    }
    return [255, 255, 255];
  }

  function faint(element) {
    const style = getComputedStyle(element), ground = background(element);
    if (ground === null) return null;
    const [dark, light] = [luminance(channels(style.color)), luminance(ground)].sort((a, b) => a - b);
    const ratio = (light + 0.05) / (dark + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    return ratio < (large ? CONTRAST_LARGE : CONTRAST) - 0.01 ? ratio : null;
  }

  function ownText(element) {
    const texts = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    return texts.map((node) => node.textContent.trim()).join(" ").trim();
  }

  function shown(element) {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  }

  function looks() {
    const root = document.documentElement, found = [];
    const excess = root.scrollWidth - root.clientWidth;
    if (excess > 1) found.push(`wider than the window by ${excess} pixels`);
    const cut = [...document.querySelectorAll('mjx-container[display="true"]')].filter(
      (equation) => shown(equation) && equation.scrollWidth > equation.clientWidth + 1
    );
    if (cut.length && root.clientWidth >= WIDE) found.push(`${cut.length} equations are cut off`); // phones scroll
    const seen = new Set();
    for (const element of document.body.querySelectorAll("*")) {
      if (element.closest("svg, canvas, mjx-container, script, style, noscript, [aria-hidden=true]")) continue;
      const text = ownText(element);
      if (!text || !shown(element)) continue;
      const ratio = faint(element), style = getComputedStyle(element);
      if (ratio === null || seen.has(style.color)) continue;
      seen.add(style.color);
      found.push(`contrast ${ratio.toFixed(1)} of "${text.slice(0, 30)}" (${style.color})`);
    }
    root.setAttribute("data-looks", JSON.stringify(found.slice(0, MOST)));
  }

  addEventListener("load", () => setTimeout(looks, 1000));
})();
