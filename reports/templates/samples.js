"use strict";
/* The page of all samples: a list that holds only the rows in sight, and one document at a time. */
(function () {
  const HEIGHT = 58, PIECE = 100, KEPT = 8, LONG = 14, MOST = 250000; /* a browser's longest page, in rows */
  const FIELDS = ["words", "bench", "change", "method", "against", "evidence"];
  const at = id => document.getElementById(id), make = overlay.make;
  const list = at("list"), sheet = at("sheet"), pane = at("detail"), state = at("state");
  const here = new URLSearchParams(location.search);
  let run = null, total = 0, place = -1, current = null, layer = null, plain = false, update = null;
  let pieces = new Map(), wish = 0, timer = 0;

  const ask = async function (path, values) {
    const reply = await fetch(path + "?" + new URLSearchParams(values))
      .catch(() => { throw new Error("The server does not answer: was it ended?"); });
    if (!reply.ok) throw new Error(await reply.text());
    return reply.json();
  };
  const say = function (text, wrong) { state.textContent = text; state.className = wrong ? "no" : ""; };
  const fail = error => say(error.message, true);
  const number = value => value.toLocaleString("en");
  const filters = function () {
    const found = {};
    FIELDS.forEach(function (name) {
      const value = at(name).value;
      if (value && value !== "-1") found[name] = value;
    });
    return found;
  };
  const link = (bench, doc) => "#" + encodeURIComponent(bench) + "/" + encodeURIComponent(doc);

  /* --- the list ------------------------------------------------------------------------- */
  const piece = function (index) { /* a promise of rows; the least recently used pieces go */
    const found = pieces.get(index) || ask("/api/rows", { ...filters(), start: index * PIECE, count: PIECE }).then(p => p.rows);
    pieces.delete(index); pieces.set(index, found);
    while (pieces.size > KEPT) pieces.delete(pieces.keys().next().value);
    return found;
  };
  const mark = function (parent, one) {
    const series = run.series[one[0]], word = one[1] === null ? "score " + (one[2] === null ? "none" : one[2]) : one[1] ? "right" : "wrong";
    const sign = make("i", parent, one[1] === null ? "·" : one[1] ? "●" : "○", one[1] === null ? "" : one[1] ? "ok" : "no");
    sign.title = series.name + ": " + word;
  };
  const line = function (row, index) {
    const item = make("a", sheet);
    item.href = link(row.bench, row.doc); item.style.top = index * HEIGHT + "px"; item.dataset.index = index;
    if (current && current.bench === row.bench && current.doc === row.doc) item.setAttribute("aria-current", "true");
    make("span", item, row.question ? row.question.replace(/\n/g, " · ") : "target: " + row.target);
    const low = make("span", item, "", "low"), right = row.marks.filter(one => one[1] === 1).length;
    make("span", low, row.bench + "/" + row.doc + (row.question ? " → " + row.target : ""));
    const marks = make("span", low, "", "marks");
    if (run.series.length > LONG) marks.textContent = right + " of " + row.marks.length + " right";
    else row.marks.forEach(one => mark(marks, one));
    marks.setAttribute("aria-label", right + " of " + row.marks.length + " methods right");
    return item;
  };
  const paint = async function () {
    const mine = wish, first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 5);
    const last = Math.min(Math.min(total, MOST), first + Math.ceil(list.clientHeight / HEIGHT) + 10), rows = [];
    try {
      for (let k = Math.floor(first / PIECE); k * PIECE < last; k++)
        (await piece(k)).forEach((row, i) => { const n = k * PIECE + i; if (n >= first && n < last) rows.push([row, n]); });
    } catch (error) { fail(error); return; }
    if (mine !== wish) return;
    const focused = document.activeElement && document.activeElement.dataset.index;
    sheet.replaceChildren(); sheet.style.height = Math.min(total, MOST) * HEIGHT + "px";
    rows.forEach(function (one) { if (String(one[1]) === focused) line(...one).focus(); else line(...one); });
  };
  const refresh = async function (stay) { /* the filters changed, or another cell has been read */
    const mine = ++wish, values = filters();
    const kept = new URLSearchParams(values).toString();
    history.replaceState(null, "", (kept ? "?" + kept : location.pathname) + location.hash);
    at("method").disabled = values.change === "failed" && !values.evidence;
    at("against").disabled = !["lost", "won", "changed", "differ"].includes(values.change);
    if (current) Object.assign(values, { at_bench: current.bench, at_doc: current.doc });
    try {
      const page = await ask("/api/rows", { ...values, start: 0, count: PIECE });
      if (mine !== wish) return;
      pieces = new Map([[0, Promise.resolve(page.rows)]]); total = page.total;
      place = page.at === null ? -1 : page.at;
      if (stay !== true) list.scrollTop = place < 0 ? 0 : Math.max(0, place * HEIGHT - list.clientHeight / 2);
      counted(); paint();
    } catch (error) { fail(error); }
  };
  const counted = function () {
    const all = run.benches.reduce((sum, bench) => sum + (bench.documents || 0), 0);
    const more = run.answers ? "" : "; reading: " + run.cells[0] + " of " + run.cells[1] + " cells";
    const long = total > MOST ? "; the first " + number(MOST) + " are listed, narrow it" : "";
    const left = run.notices.length, notes = left ? "; " + run.notices[0] + (left > 1 ? " (and " + (left - 1) + " more notices)" : "") : "";
    say(number(total) + " of " + number(all) + " documents" + more + long + notes);
    state.title = run.notices.join("\n");
  };
  const step = async function (by) {
    const next = place < 0 ? 0 : place + by;
    if (next < 0 || next >= total) return;
    try {
      const row = (await piece(Math.floor(next / PIECE)))[next % PIECE];
      place = next;
      if (place * HEIGHT < list.scrollTop || (place + 1) * HEIGHT > list.scrollTop + list.clientHeight)
        list.scrollTop = Math.max(0, place * HEIGHT - list.clientHeight / 2);
      location.hash = link(row.bench, row.doc);
    } catch (error) { fail(error); }
  };

  /* --- the document --------------------------------------------------------------------- */
  const share = value => value === null ? "–" : (100 * value).toFixed(value > 0 && value < .1 ? 1 : 0) + " %";
  const cell = function (row, text, name) { return make("td", row, text === null ? "–" : String(text), name); };
  const table = function (doc, parent) {
    const scale = Math.max(...doc.methods.map(m => m.prefill || 0)) < .1 ? 1000 : 1, unit = scale > 1 ? "GFLOP" : "TFLOP";
    const flops = value => value === null ? "–" : (scale * value).toPrecision(3);
    const frame = make("div", parent, "", "scroll"), body = make("table", frame), head = make("tr", make("thead", body));
    [["Method"], ["Answer"], ["Score"], ["Image tokens", "kept, mean over layers"], ["KV", "of dense's entries"],
     ["Prefill", unit], ["Decode", unit], ["Evidence", "kept, mean over layers"]].forEach(function (one, i) {
      const th = make("th", head, one[0], i > 1 ? "num" : "");
      th.scope = "col"; if (one[1]) make("span", th, one[1], "unit");
    });
    const rows = make("tbody", body);
    doc.methods.forEach(function (m) {
      const series = run.series[m.series], row = make("tr", rows), name = make("th", row, series.name);
      name.scope = "row"; name.title = series.label;
      const dense = series.ref === m.series ? null : doc.methods.find(other => other.series === series.ref);
      cell(row, m.answer === "" ? "(empty)" : m.answer, m.answer === "" ? "said gap" : "said");
      const score = cell(row, m.score === null ? "–" : String(+m.score.toFixed(3)), "num");
      if (m.ok !== null) make("span", score, m.ok ? " ✓" : " ✗", m.ok ? "ok" : "no").title = m.ok ? "right" : "wrong";
      if (dense && m.ok !== null && dense.ok !== null && dense.ok !== m.ok)
        make("span", score, dense.ok ? "right → wrong" : "wrong → right", "sub " + (dense.ok ? "no" : "ok"));
      const tokens = m.n_image === null || m.kv_vision === null ? null : m.n_image * m.kv_vision;
      cell(row, tokens === null ? "–" : number(+tokens.toFixed(1)) + " of " + number(m.n_image), "num");
      cell(row, share(m.kv), "num"); cell(row, flops(m.prefill), "num"); cell(row, flops(m.decode), "num");
      cell(row, share(m.evidence), "num");
    });
  };
  const caption = function (doc, parent) {
    make("p", parent, "One document, n = 1" + (run.mini || doc.mini ? " (mini)" : "") + ". – is not counted. Score as the bench's first " +
      "metric has it. FLOPs of the language model, causal attention; decode after the first token. KV after the prompt. Evidence: patches " +
      "under the boxes that bear the answer, processed in their own slot.", "caption");
  };
  const pictures = function (doc, parent) {
    const shown = doc.methods.filter(m => m.shown);
    const missing = [...new Set(doc.methods.filter(m => m.why).map(m => m.why))];
    if (doc.no_image) make("p", parent, doc.no_image, "hint");
    missing.forEach(why => make("p", parent, why + (shown.length ? " (" + doc.methods.filter(m => m.why === why).map(m => run.series[m.series].name).join(", ") + ")" : ""), "hint"));
    const urls = doc.files.map((there, i) => there && "/api/image?" + new URLSearchParams({ bench: doc.bench, doc: doc.doc, number: i }));
    if (!shown.length) urls.filter(Boolean).forEach(function (url, i, all) {
      const image = make("img", make("p", parent, "", "plain"));
      image.src = url; image.alt = all.length > 1 ? "Image " + (i + 1) + " of this document" : "The image of this document";
    });
    if (!shown.length) return;
    const depth = Math.max(...shown.map(m => m.shown.methods[0].layers));
    if (layer === null) layer = Math.floor(depth * 2 / 3);
    const bar = make("div", parent, "", "slide"), label = make("label", bar, "Decoder layer"), slider = make("input", bar);
    const value = make("output", bar), toggle = make("button", bar), root = make("div", parent), cards = make("div", parent, "", "cards");
    overlay.legend(root); toggle.type = "button";
    Object.assign(slider, { type: "range", min: 0, max: depth - 1, step: 1, id: "layer" }); label.htmlFor = "layer";
    const start = function (pictures) {
      if (current !== doc) return;
      const cardsOf = shown.map(function (m) {
        m.shown.methods[0].ok = m.ok === null ? null : m.ok === 1;
        return overlay.card(m.shown, m.shown.methods[0], cards, pictures);
      });
      update = function (by, flip) {
        layer = Math.min(depth - 1, Math.max(0, layer + by)); plain = flip ? !plain : plain;
        slider.value = layer; value.textContent = layer + " (0 to " + (depth - 1) + ")";
        toggle.textContent = plain ? "Overlay off (o)" : "Overlay on (o)"; toggle.className = plain ? "overlayoff" : "";
        toggle.setAttribute("aria-pressed", String(!plain));
        cardsOf.forEach(show => show(layer, plain));
      };
      update(0);
    };
    slider.addEventListener("input", function () { if (update) update(Number(slider.value) - layer); });
    toggle.addEventListener("click", function () { if (update) update(0, true); });
    overlay.load(urls, start);
  };
  const show = function (doc) {
    current = doc; update = null;
    pane.replaceChildren(); pane.scrollTop = 0;
    const path = make("p", pane, "", "path"), back = make("button", path, "← List", "back");
    back.type = "button"; back.addEventListener("click", close);
    make("h2", path, doc.bench + " / " + doc.doc);
    if (run.mini || doc.mini) make("span", path, "mini", "badge");
    [["‹", -1, "Previous"], ["›", 1, "Next"]].forEach(function (one) {
      const button = make("button", path, one[0]);
      button.type = "button"; button.title = one[2] + " document"; button.addEventListener("click", () => step(one[1]));
    });
    make("span", path, place < 0 ? "not in this list" : number(place + 1) + " of " + number(total));
    make("p", pane, doc.question || "The question is not kept in this run.", doc.question ? "question" : "hint");
    const expected = make("p", pane, "Target ", "expected");
    make("b", expected, doc.target || "(none)");
    table(doc, pane); pictures(doc, pane); caption(doc, pane);
    document.title = doc.bench + "/" + doc.doc + " · " + run.name; document.body.classList.add("open");
  };
  const narrow = matchMedia("(max-width: 52rem)");
  const close = function () { /* where list and document do not stand side by side */
    document.body.classList.remove("open"); history.replaceState(null, "", location.pathname + location.search);
    current = null; list.scrollTop = Math.max(0, place * HEIGHT - list.clientHeight / 2); paint();
  };
  const open = async function () { /* what the address names */
    const asked = location.hash;
    try {
      const parts = asked.slice(1).split("/").map(decodeURIComponent), bench = parts[0], doc = parts.slice(1).join("/");
      if (!bench || doc === "") return;
      const found = await ask("/api/doc", { bench: bench, doc: doc });
      if (location.hash !== asked) return; /* another one meanwhile */
      const row = [...sheet.children].find(one => one.getAttribute("href") === link(bench, doc));
      if (row) place = Number(row.dataset.index);
      current = found;
      if (!row) await refresh();
      show(found); paint();
    } catch (error) { current = null; fail(error); }
  };

  /* --- the controls --------------------------------------------------------------------- */
  const soon = function () { clearTimeout(timer); timer = setTimeout(refresh, 120); };
  at("filters").addEventListener("input", soon);
  at("filters").addEventListener("submit", function (event) { event.preventDefault(); refresh(); });
  at("filters").addEventListener("reset", function () { setTimeout(refresh); });
  list.addEventListener("scroll", function () { requestAnimationFrame(paint); });
  addEventListener("resize", paint); addEventListener("hashchange", open);
  const theme = name => { document.documentElement.dataset.theme = name; at("theme").textContent = name === "dark" ? "Light" : "Dark"; };
  const system = matchMedia("(prefers-color-scheme: dark)");
  theme(system.matches ? "dark" : "light");
  system.addEventListener("change", function () { theme(system.matches ? "dark" : "light"); });
  at("theme").addEventListener("click", function () { theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); });
  at("help").addEventListener("click", function () { at("keys").showModal(); });
  addEventListener("keydown", function (event) {
    const typing = event.target.matches("input[type=search], select"), sliding = event.target.matches("input[type=range]");
    if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
    if (event.key === "Escape") { if (typing) event.target.blur(); else if (current && narrow.matches) close(); return; }
    if (typing) return;
    const keys = {
      j: () => step(1), k: () => step(-1), "/": () => at("words").focus(), "?": () => at("keys").showModal(),
      o: () => update && update(0, true), "[": () => update && update(-1), "]": () => update && update(1),
    };
    if (!sliding) Object.assign(keys, { ArrowDown: keys.j, ArrowUp: keys.k });
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });

  const follow = async function () { /* the benches come one after the other */
    try {
      const before = run ? run.cells[0] + run.whole.length : -1, first = run === null;
      run = await ask("/api/run", {});
      if (first) {
        at("name").textContent = run.name; at("mini").hidden = !run.mini; document.title = "Samples · " + run.name;
        run.benches.forEach(b => { const o = make("option", at("bench"), b.name + (b.mini ? " (mini)" : "")); o.value = b.name; });
        run.series.forEach(function (one, i) {
          ["method", "against"].forEach(id => { make("option", at(id), one.name).value = i; });
        });
        const names = run.series.map(one => one.name).join(", ");
        if (run.series.length <= LONG) at("order").textContent = "● right ○ wrong: " + names;
        at("order").title = names;
        FIELDS.forEach(name => { if (here.has(name)) at(name).value = here.get(name); });
      }
      if (run.cells[0] + run.whole.length === before) counted();
      else {
        await refresh(!first);
        if (!current || !current.whole && run.whole.includes(current.bench)) await open();
      }
      if (!run.answers) setTimeout(follow, 300);
    } catch (error) { fail(error); }
  };
  follow();
})();
