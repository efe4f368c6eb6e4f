// One large attention map: tokens on both axes, a cursor, and a zoomable, movable view.

const SMALLEST_LABELLED = 10; // CSS pixels of a cell that a token's name fits beside
const SMALLEST_CELL = 11; // of short texts
const LARGEST_CELL = 32;
const SMALLEST_WINDOW = 8; // tokens
const WHOLE_AT_ONCE = 64; // longer texts begin as a picture of fixed size

/** texts: one, or two, one of which is shown. onclose(layer, head), onswitch(index). */
function mapDialog(texts, { onclose, onswitch }) {
  let [shown, layer, head] = [0, 0, 0];
  const title = h("h2", { id: "map-title" });
  const note = h("div", { class: "readout-note muted" });
  const keys = h(
    "p",
    { class: "keys muted" },
    "Arrow keys move the cursor (with Shift by ten), + and − zoom, 0 shows all, r colours each row "
      + `by its own largest weight, [ and ] go to the previous and next head${texts.length > 1 ? ", x to the other model" : ""}, Escape closes.`,
  );
  const view = mapView(() => texts[shown], [note, keys]);
  const button = (label, sign, onclick) =>
    h("button", { type: "button", class: "small", "aria-label": label, title: label, onclick }, sign);
  const other = texts.length > 1 ? button("the other model (x)", "A ⇄ B", () => flip()) : null;
  const rowsButton = button("colour each row by its own largest weight (r)", "Row by row", () => byRow());
  const element = h(
    "dialog",
    { class: "map-dialog", "aria-labelledby": title.id },
    h(
      "div",
      { class: "map-head" },
      title,
      h(
        "div",
        { class: "buttons" },
        rowsButton,
        button("previous head ([)", "‹", () => step(-1)),
        button("next head (])", "›", () => step(1)),
        other,
        button("zoom in (+)", "+", () => view.zoom(0.5)),
        button("zoom out (−)", "−", () => view.zoom(2)),
        button("the whole map (0)", "All", () => view.reset()),
        button("close (Escape)", "Close", () => element.close()),
      ),
    ),
    view.element,
  );

  async function show() {
    const { maps, scores, title: model } = texts[shown];
    const map = maps.head(layer, head);
    title.textContent = `Layer ${layer} · head ${head}${other ? ` · ${"AB"[shown]}` : ""}`;
    if (other) title.title = model;
    await map.load();
    if (map !== texts[shown].maps.head(layer, head)) return; // another was asked for meanwhile
    const side = Math.ceil(map.tokens / map.blocks);
    note.replaceChildren(
      ...(scores ?? []).map((score) => h("p", {}, `${score.name} ${decimal(score.at(layer, head))}`)),
      map.coarse
        ? h("p", {}, `Pooled: each cell shows the largest of up to ${side} × ${side} weights. This page does not contain the full map of this head.`)
        : "",
    );
    view.show(map);
  }
  function step(by) {
    const { layers, heads } = texts[shown].maps;
    const index = (layer * heads + head + by + layers * heads) % (layers * heads);
    [layer, head] = [Math.floor(index / heads), index % heads];
    show();
  }
  function byRow() {
    rowsButton.setAttribute("aria-pressed", String(view.byRow()));
  }
  function flip() {
    shown = 1 - shown;
    const { layers, heads } = texts[shown].maps;
    [layer, head] = [Math.min(layer, layers - 1), Math.min(head, heads - 1)];
    onswitch(shown);
    show();
  }

  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "[") step(-1);
    else if (event.key === "]") step(1);
    else if (event.key === "x" && other) flip();
    else if (event.key === "r") byRow();
    else if (!view.key(event)) return;
    event.preventDefault();
  });
  element.addEventListener("click", (event) => {
    if (event.target === element) element.close(); // the backdrop
  });
  element.addEventListener("close", () => onclose(layer, head));
  addEventListener("resize", () => element.open && view.layout());
  theme.onchange(() => element.open && view.layout());
  return {
    element,
    async open(index, atLayer, atHead) {
      [shown, layer, head] = [index, atLayer, atHead];
      element.showModal();
      await show();
      view.focus();
    },
  };
}

/** The picture with its labels and its readout. text() is the text of the map;
    notes stand below the readout. */
function mapView(text, notes) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const rowBand = h("div", { class: "band" });
  const columnBand = h("div", { class: "band" });
  const frame = h("div", { class: "map-frame" }, canvas, rowBand, columnBand);
  const left = h("div", { class: "map-left", "aria-hidden": "true" });
  const top = h("div", { class: "map-top", "aria-hidden": "true" });
  const readout = h("div", { class: "readout", "aria-live": "polite" });
  const figure = h(
    "div",
    {
      class: "map-figure",
      tabindex: 0,
      role: "application",
      "aria-label": "attention map: rows are queries, columns are keys",
    },
    h("div", { class: "map-corner muted", "aria-hidden": "true" }, "query ↓ key →"),
    top,
    left,
    frame,
  );
  const scroller = h("div", { class: "map-scroll" }, figure);
  const element = h("div", { class: "map-body" }, scroller, h("div", { class: "map-side" }, readout, notes));

  let map = null;
  let window_ = { row: 0, column: 0, size: 1 }; // in tokens
  let cursor = { query: 0, key: 0 };
  let side = 1; // CSS pixels
  let rowByRow = false; // colours are of a weight's share of the largest in its row
  let drag = null;
  const cell = () => side / window_.size;

  function show(next) {
    const fresh = !map || map.tokens !== next.tokens;
    map = next;
    if (fresh) {
      window_ = { row: 0, column: 0, size: map.tokens };
      cursor = { query: map.tokens - 1, key: 0 };
    }
    layout();
  }

  function layout() {
    const room = scroller.clientWidth - left.offsetWidth - 8;
    const long = map.tokens > WHOLE_AT_ONCE;
    const size = clamp(Math.floor(room / map.tokens), SMALLEST_CELL, LARGEST_CELL);
    side = long ? clamp(Math.min(room, innerHeight - 260), 280, 760) : size * map.tokens;
    for (const [name, target] of [["width", frame], ["height", frame], ["width", top], ["height", left]]) {
      target.style[name] = `${side}px`;
    }
    canvas.style.width = canvas.style.height = `${side}px`;
    figure.classList.toggle("zoomable", window_.size < map.tokens || long);
    draw();
  }

  function draw() {
    const { row, column, size } = window_;
    const pixels = Math.min(size, 1024);
    const token = (start, pixel) => start + Math.floor((pixel * size) / pixels);
    // If a pixel covers several tokens, use the pooled weights, which skip no peak.
    const pooled = pixels < size;
    const weight = (query, key) =>
      pooled ? map.pooled(map.blockOf(query), map.blockOf(key)) : map.weight(query, key);
    canvas.width = canvas.height = pixels;
    const scales = Array.from({ length: pixels }, (_, y) =>
      rowByRow ? map.largestOf(token(row, y)) || 1 : 1,
    );
    drawWeights(canvas.getContext("2d"), pixels, (y, x) => {
      const [query, key] = [token(row, y), token(column, x)];
      return key > query ? null : Math.min(1, weight(query, key) / scales[y]);
    });
    drawLabels();
    point(cursor.query, cursor.key);
  }

  function drawLabels() {
    const { tokens } = text();
    for (const [gutter, start, axis] of [[left, window_.row, "top"], [top, window_.column, "left"]]) {
      const named = cell() >= SMALLEST_LABELLED;
      const every = named ? 1 : roundStep((64 / side) * window_.size);
      const labels = [];
      for (let t = Math.ceil(start / every) * every; t < start + window_.size; t += every) {
        labels.push(label(named ? visible(tokens[t]) : String(t), t, start, axis));
      }
      gutter.replaceChildren(...labels, h("bdi", { class: "label here" }));
    }
  }

  function label(name, t, start, axis) {
    const element = h("bdi", { class: "label", "data-position": t }, name);
    placeLabel(element, t, start, axis);
    return element;
  }

  function placeLabel(element, t, start, axis) {
    element.style[axis] = `${(t - start + 0.5) * cell()}px`;
  }

  /** Move the cursor to a weight and describe it. */
  function point(query, key) {
    cursor = { query: clamp(query, 0, map.tokens - 1), key: clamp(key, 0, map.tokens - 1) };
    const { tokens } = text();
    const sides = [
      [left, rowBand, cursor.query, window_.row, "top", "height"],
      [top, columnBand, cursor.key, window_.column, "left", "width"],
    ];
    for (const [gutter, band, t, start, axis, extent] of sides) {
      band.style[axis] = `${(t - start) * cell()}px`;
      band.style[extent] = `${Math.max(1, cell())}px`;
      band.classList.toggle("thin", cell() < 4);
      band.hidden = t < start || t >= start + window_.size;
      for (const element of gutter.children) {
        element.classList.toggle("current", element.dataset.position === String(t));
      }
      const here = gutter.lastChild;
      here.hidden = band.hidden || cell() >= SMALLEST_LABELLED;
      here.textContent = visible(tokens[t]);
      placeLabel(here, t, start, axis);
    }
    readout.replaceChildren(...describeWeight(text(), map, cursor));
  }

  function move(row, column, size) {
    const within = Math.round(clamp(size, Math.min(SMALLEST_WINDOW, map.tokens), map.tokens));
    window_ = {
      row: Math.round(clamp(row, 0, map.tokens - within)),
      column: Math.round(clamp(column, 0, map.tokens - within)),
      size: within,
    };
    layout();
  }

  /** Keeps the weight under the cursor in place on the screen. */
  function zoom(factor) {
    const size = clamp(window_.size * factor, SMALLEST_WINDOW, map.tokens);
    const share = size / window_.size;
    const { query, key } = cursor;
    move(query - (query - window_.row) * share, key - (key - window_.column) * share, size);
  }

  function goTo(query, key) {
    const q = clamp(query, 0, map.tokens - 1);
    const k = clamp(key, 0, q);
    const { row, column, size } = window_;
    const follow = (start, t) => (t < start ? t : t >= start + size ? t - size + 1 : start);
    cursor = { query: q, key: k };
    if (follow(row, q) !== row || follow(column, k) !== column) {
      move(follow(row, q), follow(column, k), size);
    } else point(q, k);
  }

  function key(event) {
    const { query, key } = cursor;
    const by = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowUp: () => goTo(query - by, key),
      ArrowDown: () => goTo(query + by, key),
      ArrowLeft: () => goTo(query, key - by),
      ArrowRight: () => goTo(query, key + by),
      Home: () => goTo(query, 0),
      End: () => goTo(query, query),
      "+": () => zoom(0.5),
      "=": () => zoom(0.5),
      "-": () => zoom(2),
      0: () => move(0, 0, map.tokens),
    };
    if (!actions[event.key]) return false;
    actions[event.key]();
    return true;
  }

  const under = (event) => {
    const rect = frame.getBoundingClientRect();
    return {
      query: window_.row + Math.floor((event.clientY - rect.top) / cell()),
      key: window_.column + Math.floor((event.clientX - rect.left) / cell()),
    };
  };
  frame.addEventListener("pointermove", (event) => {
    if (drag && window_.size < map.tokens) {
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      move(drag.row - dy / cell(), drag.column - dx / cell(), window_.size);
    }
    const { query, key } = under(event);
    point(query, key);
  });
  frame.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, row: window_.row, column: window_.column };
    frame.setPointerCapture(event.pointerId);
    const { query, key } = under(event);
    point(query, key);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    frame.addEventListener(name, () => (drag = null));
  }
  frame.addEventListener("dblclick", () => zoom(0.5));
  frame.addEventListener(
    "wheel",
    (event) => {
      if (map.tokens <= WHOLE_AT_ONCE) return; // then the dialog scrolls
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8);
    },
    { passive: false },
  );
  for (const [gutter, name] of [[left, "query"], [top, "key"]]) {
    gutter.addEventListener("pointerover", (event) => {
      const t = event.target.dataset.position;
      if (t !== undefined) point(...Object.values({ ...cursor, [name]: Number(t) }));
    });
  }
  return {
    element,
    show,
    layout: () => map && layout(),
    zoom,
    reset: () => move(0, 0, map.tokens),
    byRow() {
      rowByRow = !rowByRow;
      draw();
      return rowByRow;
    },
    key,
    focus: () => figure.focus(),
  };
}

/** 1, 2 or 5 times a power of ten, at least `least`. */
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= least);
}
