/* What is wrong with how a page looks, as a list of sentences.

Contrast is that of WCAG 2, between a text and the backgrounds behind it. */
(() => {
  const LEAST = 4.5;
  const SMALLEST = 11; // pixels, of text in a figure
  const SILENT = new Set(["SCRIPT", "STYLE", "NOSCRIPT", "TITLE", "DESC"]);

  const parsed = (color) => {
    const numbers = color.match(/[\d.]+/g).map(Number);
    return numbers.length > 3 ? numbers : [...numbers, 1];
  };
  const over = (upper, lower) => [
    ...[0, 1, 2].map((i) => upper[i] * upper[3] + lower[i] * (1 - upper[3])),
    1,
  ];
  const luminance = (color) => {
    const [red, green, blue] = color.slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045
        ? share / 12.92
        : Math.pow((share + 0.055) / 1.055, 2.4);
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [dark, bright] = [luminance(one), luminance(other)].sort(
      (a, b) => a - b
    );
    return (bright + 0.05) / (dark + 0.05);
  };
  const background = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.push(parsed(getComputedStyle(e).backgroundColor));
    }
    return layers.reduceRight((below, layer) => over(layer, below), [
      255, 255, 255, 1,
    ]);
  };

  const wrong = new Set();
  /* The theme hides the overflow of the page, and lets a box around all of its
     content scroll: so every such box around the heading counts. */
  let box = document.querySelector("h1") || document.body;
  for (; box; box = box.parentElement) {
    const spills =
      box === document.documentElement ||
      getComputedStyle(box).overflowX !== "visible";
    if (spills && box.scrollWidth > box.clientWidth) {
      wrong.add(`is ${box.scrollWidth} px wide, not ${box.clientWidth}`);
    }
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    const isShown = element.checkVisibility({
      opacityProperty: true,
      visibilityProperty: true,
    });
    if (!text || SILENT.has(element.tagName.toUpperCase()) || !isShown) {
      continue;
    }
    texts += 1;
    const style = getComputedStyle(element);
    const figure = element.ownerSVGElement;
    const below = background(element);
    const color = over(parsed(figure ? style.fill : style.color), below);
    const measured = contrast(color, below);
    if (measured < LEAST) {
      wrong.add(`contrast ${measured.toFixed(2)}: "${text.slice(0, 30)}"`);
    }
    if (figure) {
      const size = parseFloat(style.fontSize) * figure.getScreenCTM().a;
      if (size < SMALLEST) {
        wrong.add(`letters of ${size.toFixed(1)} px: "${text.slice(0, 30)}"`);
      }
    }
  }
  document.querySelectorAll("input[placeholder]").forEach((field) => {
    if (field.checkVisibility()) {
      const style = getComputedStyle(field, "::placeholder");
      const below = background(field);
      const measured = contrast(over(parsed(style.color), below), below);
      if (measured < LEAST) {
        wrong.add(`contrast ${measured.toFixed(2)}: "${field.placeholder}"`);
      }
    }
  });
  if (!texts) {
    wrong.add("is empty");
  }
  return [...wrong];
})();
