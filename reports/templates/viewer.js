"use strict";
/* What every layer processes: one slider a sample, all methods side by side. */
(function () {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const root = document.getElementById("viewer");
  const make = overlay.make, card = overlay.card;
  const open = function (sample, body, number) {
    const depth = Math.max(...sample.methods.map(m => m.layers));
    const bar = make("div", body, "", "slide"), label = make("label", bar, "Decoder layer");
    const slider = make("input", bar), value = make("output", bar), cards = make("div", body, "", "cards");
    if (sample.methods.length > 12) {  // a page of pictures: they scroll in a frame, below their slider
      cards.classList.add("many"); cards.tabIndex = 0; cards.setAttribute("role", "region");
      cards.setAttribute("aria-label", "All methods on " + sample.bench + " " + sample.doc);
    }
    slider.type = "range"; slider.min = 0; slider.max = depth - 1; slider.step = 1;
    slider.value = Math.floor(depth * 2 / 3); slider.id = "slider-" + number; label.htmlFor = slider.id;
    const start = function (pictures) {
      const updates = sample.methods.map(m => card(sample, m, cards, pictures));
      const show = function () {
        value.textContent = slider.value + " (0 to " + (depth - 1) + ")";
        updates.forEach(update => update(Number(slider.value)));
      };
      slider.addEventListener("input", show);
      show();
    };
    const urls = sample.images.map(name => data.images[name]), missing = urls.filter(url => !url).length;
    if (missing || !urls.length && sample.kinds.includes("2"))
      make("p", body, (urls.length > 1 ? missing + " of " + urls.length + " images are" : "The image is") + " not in the run directory.");
    overlay.load(urls, start);
  };
  overlay.legend(root);
  data.samples.forEach(function (sample, number) {
    const fold = make("details", root), head = make("summary", fold);
    head.append(sample.bench + " " + sample.doc + ": " + (sample.question || "no question recorded"));
    make("span", head, " target: " + sample.target, "target");
    const body = make("div", fold);
    fold.addEventListener("toggle", function () {
      if (fold.open && !body.childNodes.length) open(sample, body, number);
    });
    fold.open = number === 0;
  });
})();
