// The logit lens: predictions after each layer, aligned below the tokens.

const LENS_CELL = 92; // CSS pixels
const LENS_LONG = 256; // more tokens than this scroll in a box of their own
const LENS_PRINTED = 128; // tokens, of a long text
const LENS_PRINT_COLUMNS = 7;

function lensSection(text, choice) {
  const { rows, guesses } = text.lens;
  const total = text.tokens.length;
  const long = total > LENS_LONG;
  const box = h("div", { class: long ? "lens boxed" : "lens" });
  const printed = h("p", { class: "muted print-only" });
  let columns = 0;
  let cut = false; // only some of a long text is laid out, to be printed
  let lazy = null;
  let chosen = { row: rows.length - 1, token: choice.token };

  /** Bands of as many tokens as fit side by side. */
  function build() {
    const names = box.clientWidth < 600 ? 76 : 140;
    const fit = Math.max(2, Math.floor((box.clientWidth - names - 16) / LENS_CELL));
    const next = theme.printing ? LENS_PRINT_COLUMNS : fit;
    const nextCut = theme.printing && long;
    if (next === columns && nextCut === cut) return;
    [columns, cut] = [next, nextCut];
    const [first, last] = cut ? aroundChoice() : [0, total];
    printed.textContent =
      last - first < total ? `Tokens ${first} to ${last - 1} of ${total} are printed.` : "";
    const starts = [];
    for (let start = first; start < last; start += columns) starts.push(start);
    const blocks = starts.map((start) => h("div", { class: "band-of-lens", "data-start": start }));
    for (const block of blocks) block.style.minHeight = `${(rows.length + 2) * 33}px`;
    lazy?.stop();
    box.replaceChildren(...blocks);
    lazy = lazyBlocks({
      box: long && !cut ? box : null,
      blocks,
      fill: (i) => [band(starts[i], Math.min(starts[i] + columns, last))],
      keep: (i) => chosen.token >= starts[i] && chosen.token < starts[i] + columns,
    });
    mark(choice.token);
  }

  function aroundChoice() {
    const first = clamp(choice.token - LENS_PRINTED / 2, 0, total - LENS_PRINTED);
    return [first, first + LENS_PRINTED];
  }

  function band(start, end) {
    const positions = Array.from({ length: end - start }, (_, i) => start + i);
    const space = h("td", { colspan: columns - positions.length });
    const line = (cells) => (positions.length < columns ? [...cells, space.cloneNode()] : cells);
    const head = line(positions.map((t) => h("th", { scope: "col", "data-token": t }, word(text.tokens[t]))));
    const body = rows.map((name, row) =>
      h("tr", {}, h("th", { scope: "row" }, ...dotted(name)), line(positions.map((t) => lensCell(row, t)))),
    );
    const next = line(positions.map((t) => h("td", { class: "next" }, t + 1 < total ? word(text.tokens[t + 1]) : "")));
    return h(
      "table",
      { class: "lens-table", "aria-label": `logit lens, tokens ${start} to ${end - 1}` },
      h("thead", {}, h("tr", {}, h("th", { scope: "row" }, "token"), head)),
      h("tbody", {}, body),
      h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "next token"), next)),
    );
  }

  function lensCell(row, t) {
    const { word: guess, probability } = guesses.one(row, t);
    const right = guess === text.tokens[t + 1];
    const cell = h(
      "td",
      {
        class: right ? "guess right" : "guess",
        "data-row": row,
        "data-token": t,
        tabindex: row === chosen.row && t === chosen.token ? 0 : -1,
        title: `${rows[row]}, after ${visible(text.tokens[t])}: ${visible(guess)} ${percent(probability)}`,
      },
      word(guess),
      h("small", {}, `${percent(probability)}${right ? " ✓" : ""}`),
    );
    paint(cell, SEQUENTIAL, probability);
    return cell;
  }

  function find(row, token) {
    const first = Number(box.firstChild.dataset.start);
    const block = Math.floor((token - first) / columns);
    if (!box.children[block]) return null; // not among those that are printed
    lazy.show(block);
    return box.querySelector(`td[data-row="${row}"][data-token="${token}"]`);
  }

  function mark(token) {
    const before = find(chosen.row, chosen.token);
    if (before) before.tabIndex = -1;
    chosen = { ...chosen, token };
    const cell = find(chosen.row, token);
    for (const element of box.querySelectorAll(".chosen")) element.classList.remove("chosen");
    for (const element of box.querySelectorAll(`[data-token="${token}"]`)) {
      element.classList.add("chosen");
    }
    if (!cell) return;
    cell.tabIndex = 0;
    if (long) keepInView(box, cell.closest("table"));
  }

  box.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-token]");
    if (!cell) return;
    if (cell.dataset.row) setRow(Number(cell.dataset.row));
    choice.choose(Number(cell.dataset.token));
    mark(choice.token);
  });
  function setRow(row) {
    const cell = find(chosen.row, chosen.token);
    if (cell) cell.tabIndex = -1;
    chosen = { ...chosen, row };
  }
  box.addEventListener("keydown", (event) => {
    gridKeys(event, {
      row: chosen.row,
      column: chosen.token,
      rows: rows.length,
      columns: total,
      at(row, token) {
        setRow(row);
        choice.choose(token);
        mark(token);
        return find(row, token);
      },
    });
  });
  new ResizeObserver(build).observe(box);
  theme.onchange(() => {
    build();
    lazy?.refresh();
    if (lazy) mark(choice.token);
  });
  choice.onchange((t) => lazy && mark(t));
  return section(
    "lens",
    "Logit lens",
    "The prediction if the model ended after each layer: the most likely next token and its "
      + "probability, below each token. A tick marks correct predictions.",
    legend(SEQUENTIAL, "probability 0", "1"),
    box,
    printed,
  );
}
