// All heads of a model as small maps; one row per layer.

const THUMBNAIL = 96; // pixels

/** texts: one, or two to switch between. */
function mapSection(texts) {
  let shown = 0;
  const dialog = mapDialog(texts, {
    onclose: (layer, head) => grids[shown].focus(layer, head),
    onswitch: (index) => show(index),
  });
  const grids = texts.map(({ maps }) => headGrid(maps, (layer, head) => dialog.open(shown, layer, head)));
  const place = h("div", {}, grids[0].element);
  const names = ["A", "B"];
  const switcher =
    texts.length > 1
      ? segmented("Model", names.map((name, i) => [String(i), name]), "0", (i) => show(Number(i)))
      : null;

  function show(index) {
    shown = index;
    place.replaceChildren(grids[index].element);
    switcher.querySelectorAll("input")[index].checked = true;
  }

  const { tokens, blocks } = texts[0].maps.head(0, 0);
  const pooled = blocks < tokens ? ` Each of the ${blocks} × ${blocks} cells shows its largest weight.` : "";
  return {
    open: (layer, head) => dialog.open(shown, layer, head),
    element: section(
      "maps",
      "Attention maps",
      "One map per head: rows are queries, columns are keys. "
        + `Choose a map to enlarge it.${pooled}`,
      legend(SEQUENTIAL, "weight 0", "1 (¼ in the middle)"),
      switcher,
      place,
      dialog.element,
    ),
  };
}

function headGrid(maps, onopen) {
  const cells = [];
  let current = 0;
  const cell = (layer, head) => {
    const canvas = h("canvas", { "aria-hidden": "true" });
    const button = h(
      "button",
      {
        type: "button",
        class: "head-map",
        tabindex: layer + head ? -1 : 0,
        "data-layer": layer,
        "data-head": head,
        "aria-label": `attention map of layer ${layer}, head ${head}`,
        onclick: () => onopen(layer, head),
        onfocus: () => makeCurrent(layer * maps.heads + head),
      },
      canvas,
    );
    cells.push({ button, draw: () => drawThumbnail(canvas, maps.head(layer, head)) });
    return h("td", { role: "gridcell" }, button);
  };
  const makeCurrent = (index) => {
    cells[current].button.tabIndex = -1;
    current = index;
    cells[current].button.tabIndex = 0;
  };

  const numbers = (count) => Array.from({ length: count }, (_, i) => i);
  const head = h(
    "tr",
    {},
    h("td"),
    numbers(maps.heads).map((i) => h("th", { scope: "col" }, `head ${i}`)),
  );
  const rows = numbers(maps.layers).map((layer) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, `layer ${layer}`),
      numbers(maps.heads).map((i) => cell(layer, i)),
    ),
  );
  const table = h(
    "table",
    { class: "head-grid", role: "grid", "aria-label": "Attention maps of all heads" },
    h("thead", {}, head),
    h("tbody", {}, rows),
  );
  table.addEventListener("keydown", (event) =>
    gridKeys(event, {
      row: Math.floor(current / maps.heads),
      column: current % maps.heads,
      rows: maps.layers,
      columns: maps.heads,
      at: (row, column) => cells[row * maps.heads + column].button,
    }),
  );
  const drawAll = () => cells.forEach(({ draw }) => draw());
  drawAll();
  theme.onchange(drawAll);
  return {
    element: h("div", { class: "scroll-x" }, table),
    focus: (layer, index) => cells[layer * maps.heads + index].button.focus(),
  };
}

/** Max-pooled, so that thin lines stay visible; coloured by the square root of the weight. */
function drawThumbnail(canvas, map) {
  const step = Math.ceil(map.blocks / THUMBNAIL);
  const side = Math.ceil(map.blocks / step);
  const largest = new Float32Array(side * side);
  for (let q = 0; q < map.blocks; q += 1) {
    for (let k = 0; k <= q; k += 1) {
      const at = Math.floor(q / step) * side + Math.floor(k / step);
      largest[at] = Math.max(largest[at], map.pooled(q, k));
    }
  }
  canvas.width = canvas.height = side;
  canvas.classList.toggle("crisp", side <= THUMBNAIL / 2);
  drawWeights(canvas.getContext("2d"), side, (q, k) => (k > q ? null : largest[q * side + k]));
}

/** side × side pixels; weight(row, column) is null for masked keys. */
function drawWeights(context, side, weight) {
  const table = colours(SEQUENTIAL);
  const image = context.createImageData(side, side);
  for (let row = 0, at = 0; row < side; row += 1) {
    for (let column = 0; column < side; column += 1, at += 4) {
      const value = weight(row, column);
      if (value === null) continue;
      const [r, g, b] = table[Math.round(255 * Math.sqrt(value))];
      image.data[at] = r;
      image.data[at + 1] = g;
      image.data[at + 2] = b;
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}
