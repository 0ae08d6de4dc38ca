"use strict";
/* What a layer processes of a document, over its image: shared by the report and the page of all samples. */
const overlay = (function () {
  const NAMES = ["processed", "skipped", "dropped", "merged"];
  const make = function (tag, parent, text, name) {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (name) element.className = name;
    parent.append(element);
    return element;
  };
  const unpack = function (text, count) {
    const bytes = atob(text), states = new Uint8Array(count);
    for (let i = 0; i < count; i++) states[i] = (bytes.charCodeAt(i >> 2) >> ((i & 3) * 2)) & 3;
    return states;
  };
  /* Pale where skipped, dark and struck through where dropped, half pale with a ring where merged. */
  const cover = function (pen, state, x, y, w, h) {
    pen.fillStyle = ["", "rgba(240,242,244,.86)", "rgba(32,36,42,.82)", "rgba(240,242,244,.6)"][state];
    pen.fillRect(x, y, w, h);
    if (state === 2) {
      pen.strokeStyle = "rgba(255,255,255,.4)"; pen.lineWidth = 1;
      pen.beginPath(); pen.moveTo(x + w * .25, y + h * .75); pen.lineTo(x + w * .75, y + h * .25); pen.stroke();
    } else if (state === 3) {
      pen.strokeStyle = "#c65600"; pen.lineWidth = Math.max(1, w / 9);
      pen.beginPath(); pen.arc(x + w / 2, y + h / 2, Math.min(w, h) * .28, 0, 7); pen.stroke();
    }
  };
  /* The canvas shows the image and, around it, the padding that the grid covers. */
  const frame = function (grid) {
    if (!grid.box || !grid.image) return [0, 0, grid.cols, grid.rows];
    const b = grid.box;
    return [Math.min(0, b[0]), Math.min(0, b[1]), Math.max(grid.image[1], b[2]), Math.max(grid.image[0], b[3])];
  };
  const imageOf = grid => grid.number || 0;
  /* Tiles of an image that have a grid each are one picture: a canvas for all of them. */
  const parted = function (grids) {
    const parts = [];
    grids.forEach(function (grid) {
      const last = parts[parts.length - 1], tile = grid.kind === "tile" && grid.box;
      const goes = tile && last && last[0].kind === "tile" && last[0].box && imageOf(last[0]) === imageOf(grid);
      if (goes) last.push(grid); else parts.push([grid]);
    });
    return parts;
  };
  const draw = function (canvas, part, picture, states, at, boxes) {
    const grid = part[0], f = frame(grid), k = 2 * Math.min(300 / (f[2] - f[0]), 300 / (f[3] - f[1]));
    canvas.width = Math.round((f[2] - f[0]) * k); canvas.height = Math.round((f[3] - f[1]) * k);
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#8a929c"; pen.fillRect(0, 0, canvas.width, canvas.height);
    if (picture && grid.image)
      pen.drawImage(picture, -f[0] * k, -f[1] * k, grid.image[1] * k, grid.image[0] * k);
    part.forEach(function (one) {
      const box = one.box || f, w = (box[2] - box[0]) * k / one.cols, h = (box[3] - box[1]) * k / one.rows;
      for (let r = 0; r < one.rows; r++) for (let c = 0; c < one.cols; c++) {
        const token = one.start + r * (one.cols + (one.newline ? 1 : 0)) + c, state = states[at + token];
        if (state) cover(pen, state, (box[0] - f[0]) * k + c * w, (box[1] - f[1]) * k + r * h, w + .5, h + .5);
      }
    });
    if (grid.box) boxes.forEach(function (b) {
      const rect = [(b[0] - f[0]) * k, (b[1] - f[1]) * k, (b[2] - b[0]) * k, (b[3] - b[1]) * k];
      pen.setLineDash([]); pen.lineWidth = 5; pen.strokeStyle = "#fff"; pen.strokeRect(...rect);
      pen.setLineDash([9, 6]); pen.lineWidth = 3; pen.strokeStyle = "#111"; pen.strokeRect(...rect);
    });
    if (grid.box) { /* the part of the image that no token sees */
      pen.setLineDash([]);
      pen.fillStyle = "rgba(32,36,42,.82)";
      const end = function (pick, i) { return pick(...part.map(one => one.box[i])); };
      const x0 = (end(Math.min, 0) - f[0]) * k, y0 = (end(Math.min, 1) - f[1]) * k;
      const x1 = (end(Math.max, 2) - f[0]) * k, y1 = (end(Math.max, 3) - f[1]) * k;
      pen.fillRect(0, 0, x0, canvas.height); pen.fillRect(x1, 0, canvas.width - x1, canvas.height);
      pen.fillRect(x0, 0, x1 - x0, y0); pen.fillRect(x0, y1, x1 - x0, canvas.height - y1);
    }
  };
  /* The files behind several images, in order; null for one that is not there. */
  const load = function (urls, then) {
    const found = urls.map(() => null);
    let left = urls.length;
    const ready = function () { if (--left <= 0) then(found); };
    if (!left) then(found);
    urls.forEach(function (url, i) {
      if (!url) { ready(); return; }
      const picture = new Image();
      picture.onload = function () { found[i] = picture; ready(); };
      picture.onerror = ready;
      picture.src = url;
    });
  };
  /* Which image tokens are whose: each image begins with its first grid. */
  const owners = function (sample) {
    const first = {};
    sample.grids.forEach(function (grid) {
      const number = imageOf(grid);
      if (!(number in first) || grid.start < first[number]) first[number] = grid.start;
    });
    return Object.keys(first).map(number => [first[number], Number(number)]).sort((a, b) => a[0] - b[0]);
  };
  const card = function (sample, method, parent, pictures) {
    const kinds = sample.kinds, n = kinds.length, states = unpack(method.states, n * method.layers);
    const box = make("article", parent), head = make("p", box, "", "who");
    make("strong", head, method.name).title = method.label;
    const none = new Uint8Array(states.length), parts = parted(sample.grids), starts = owners(sample);
    const several = starts.length > 1, labels = {};
    const canvases = parts.map(function (part) {
      const number = imageOf(part[0]);
      if (several && !labels[number]) labels[number] = make("p", box, "", "which");
      const canvas = make("canvas", box);
      canvas.setAttribute("role", "img");
      return canvas;
    });
    if (!sample.grids.length && kinds.includes("2"))
      make("p", box, "Its image tokens are made of several images or crops: none has a place in one.", "hint");
    const count = make("p", box, "", "count"), words = make("p", box, "", "words"), spans = [];
    let next = 0;
    if (!sample.words.length) words.remove(); /* not kept of this document */
    else for (let i = 0; i < n; i++) {
      if (kinds[i] === "2") {
        if (i && kinds[i - 1] === "2") continue;
        make("span", words, " ▦ ", "picture");
      } else spans.push([i, make("span", words, (sample.words[next++] || "").replace(/\n/g, " ⏎ "))]);
    }
    const known = "ok" in method ? method.ok : method.score === null ? null : method.score >= .5;
    const right = known === null ? "" : known ? " ✓ right" : " ✗ wrong";
    const answer = make("p", box, "", "answer");
    answer.append("Answer: "); make("q", answer, method.answer); answer.append(right);
    return function (layer, plain) {
      const at = Math.min(layer, method.layers - 1) * n, found = [0, 0, 0, 0];
      let images = 0, texts = 0, kept = 0, turn = 0;
      const own = starts.map(() => [0, 0]); /* of each image: tokens, processed */
      for (let i = 0; i < n; i++) {
        const state = states[at + i], image = kinds[i] === "2";
        if (!image) { texts++; kept += state === 0; continue; }
        images++; found[state]++;
        while (turn + 1 < starts.length && i >= starts[turn + 1][0]) turn++;
        if (own.length) { own[turn][0]++; own[turn][1] += state === 0; }
      }
      const rest = NAMES.map((name, i) => i && found[i] ? ", " + found[i] + " " + name : "").join("");
      const said = found[0] + " of " + images + " image tokens" + rest + "; " + kept + " of " + texts + " text";
      count.textContent = said;
      spans.forEach(function (one) { one[1].className = states[at + one[0]] ? "off" : ""; });
      const told = {};
      starts.forEach(function (one, i) {
        told[one[1]] = "Image " + (one[1] + 1) + ": " + own[i][1] + " of " + own[i][0];
        if (labels[one[1]]) labels[one[1]].textContent = told[one[1]];
      });
      parts.forEach(function (part, i) {
        const number = imageOf(part[0]);
        draw(canvases[i], part, pictures[number], plain ? none : states, at, sample.evidence);
        canvases[i].setAttribute("aria-label", method.label + ", layer " + layer + ": " + (several ? told[number] + "; " : "") + said);
      });
    };
  };
  const legend = function (root) {
    const line = make("p", root, "", "legend");
    [["kept", "processed"], ["skipped", "skipped: passes the layer unchanged"],
     ["dropped", "dropped: gone from this layer on"], ["merged", "merged into another token"],
     ["evidence", "bears the answer"]].forEach(function (item) {
      const entry = make("span", line); make("i", entry, "", item[0]); entry.append(item[1]);
    });
  };
  return { make: make, card: card, legend: legend, load: load };
})();
