// Head scores: one table per score, layers by heads.

const SCORE_NOTES = {
  "previous token": "weight on the previous token",
  "duplicate token": "weight on earlier copies of the same token",
  induction: "weight on the token after an earlier copy of the same token",
  "attention sink": "weight on the first token",
  entropy: "of the attention weights, in nats",
};

/** sets: scores of one model, or of two. onopen(layer, head) shows a map, if there are maps. */
function scoreSection(sets, onopen) {
  const names = [...new Set(sets.flat().map(({ name }) => name))];
  const tables = names.map((name) => {
    const scores = sets.map((set) => set.find((score) => score.name === name));
    const top = name === "entropy" ? Math.max(...scores.filter(Boolean).map(largest)) : 1;
    return h(
      "div",
      { class: "score", "data-score": name },
      h("h3", {}, name),
      h("p", { class: "muted" }, SCORE_NOTES[name] ?? ""),
      ...scores.map((score, i) => {
        if (!score) return null;
        return scoreTable(score, top, sets.length > 1 ? "AB"[i] : "", onopen);
      }),
    );
  });
  return section(
    "scores",
    "Head scores",
    `A frame marks the strongest head of each score.${onopen ? " Choose a cell to see that head's map." : ""}`,
    legend(SEQUENTIAL, "0", "1 (entropy: its largest)"),
    h("div", { class: "scores" }, tables),
  );
}

function scoreCells({ layers, heads, at }) {
  return Array.from({ length: layers * heads }, (_, i) => {
    const [layer, head] = [Math.floor(i / heads), i % heads];
    return { layer, head, value: at(layer, head) };
  });
}

function strongest(score) {
  const known = scoreCells(score).filter(({ value }) => Number.isFinite(value));
  return known.reduce((best, cell) => (best && best.value >= cell.value ? best : cell), null);
}

function largest(score) {
  return strongest(score)?.value ?? 1;
}

function scoreTable(score, top, label, onopen) {
  const best = strongest(score);
  const cells = scoreCells(score);
  const painted = [];
  let current = 0;
  const cell = ({ layer, head, value }, index) => {
    const isBest = best && layer === best.layer && head === best.head;
    const element = h(
      "td",
      {
        class: isBest ? "best" : null,
        "data-layer": layer,
        "data-head": head,
        tabindex: onopen ? (index ? -1 : 0) : null,
        title: `layer ${layer}, head ${head}: ${decimal(value, 3)}`,
      },
      decimal(value),
    );
    painted.push(() => paint(element, SEQUENTIAL, value / top));
    return element;
  };
  const elements = cells.map(cell);
  const rows = Array.from({ length: score.layers }, (_, layer) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, layer),
      elements.slice(layer * score.heads, (layer + 1) * score.heads),
    ),
  );
  const heads = Array.from({ length: score.heads }, (_, i) => h("th", { scope: "col" }, i));
  const caption = best
    ? [`${label ? `${label}: ` : ""}strongest: layer ${best.layer}, head ${best.head}, ${decimal(best.value)}`]
    : [label];
  const table = h(
    "table",
    { class: "score-table" },
    h("caption", {}, ...caption),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("small", {}, "layer \\ head")), heads)),
    h("tbody", {}, rows),
  );
  if (onopen) {
    const open = (element) => {
      if (element) onopen(Number(element.dataset.layer), Number(element.dataset.head));
    };
    table.addEventListener("click", (event) => open(event.target.closest("td")));
    table.addEventListener("focusin", (event) => {
      elements[current].tabIndex = -1;
      current = elements.indexOf(event.target.closest("td"));
      elements[current].tabIndex = 0;
    });
    table.addEventListener("keydown", (event) => {
      if (event.key === "Enter") open(elements[current]);
      const { layers, heads: columns } = score;
      const [row, column] = [Math.floor(current / columns), current % columns];
      const at = (r, c) => elements[r * columns + c];
      gridKeys(event, { row, column, rows: layers, columns, at });
    });
  }
  const repaint = () => painted.forEach((draw) => draw());
  repaint();
  theme.onchange(repaint);
  return h("div", { class: "scroll-x" }, table);
}
