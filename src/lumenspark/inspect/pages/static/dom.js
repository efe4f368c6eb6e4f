// Building elements. Data only ever becomes text nodes and attributes, never markup.

/** h("a", {class: "x", onclick: f}, "text", child, …) */
function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function section(id, title, intro, ...children) {
  const heading = h("h2", { id: `${id}-title` }, title);
  return h(
    "section",
    { id, tabindex: -1, "aria-labelledby": heading.id },
    heading,
    h("p", { class: "intro" }, intro),
    ...children,
  );
}

/** Radio buttons in the form of a segmented control. options: [[value, label], …] */
function segmented(label, options, current, onchoose) {
  const name = `choice-${(segmented.count = (segmented.count ?? 0) + 1)}`;
  const choices = options.map(([value, text]) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name,
        value,
        checked: value === current,
        onchange: () => onchoose(value),
      }),
      h("span", {}, text),
    ),
  );
  return h("fieldset", { class: "segmented" }, h("legend", {}, label), ...choices);
}

/** A bar from the left, `share` of its track long. */
function bar(share) {
  const inner = h("span", { class: "bar" });
  inner.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%`;
  return h("span", { class: "track", "aria-hidden": "true" }, inner);
}

/** A token with visible spaces, line ends and invisible characters. */
function visible(token) {
  if (token === "") return "∅";
  const joins = token.length > 1;
  return token
    .replace(/\r?\n/g, "⏎")
    .replace(/ /g, "·")
    .replace(/\t/g, "⇥")
    .replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zs}\p{Zl}\p{Zp}]/gu, (character) => {
      const code = character.codePointAt(0);
      const joiner = code === 0x200c || code === 0x200d;
      return joiner && joins ? character : `⟨${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
    });
}

/** A token in running text, isolated for bidirectional scripts. */
function word(token) {
  return h("bdi", { class: "word" }, visible(token));
}

/** A dotted name that may wrap after a dot. */
function dotted(name) {
  return name.split(/(?<=\.)/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));
}

function percent(probability) {
  if (probability === 0) return "0%";
  if (probability < 0.00001) return "<0.001%";
  return `${(100 * probability).toPrecision(3)}%`;
}

function decimal(value, places = 2) {
  if (!Number.isFinite(value)) return "–";
  return value.toFixed(places).replace("-", "−");
}

function signed(value, places = 2) {
  return value > 0 ? `+${decimal(value, places)}` : decimal(value, places);
}

/** Three significant digits, for values of any size. */
function compact(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const plain = value === 0 || (size >= 0.001 && size < 100000);
  const text = plain ? String(Number(value.toPrecision(3))) : value.toExponential(1);
  return text.replace("-", "−");
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** Scroll `box`, and none of its ancestors, until `element` is visible. */
function keepInView(box, element) {
  const outer = box.getBoundingClientRect();
  const inner = element.getBoundingClientRect();
  if (inner.top < outer.top) box.scrollTop -= outer.top - inner.top + 24;
  if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom + 24;
}

/** Arrow keys, Home and End in a grid of cells with one tab stop.
    `at` yields the cell of a row and column, if there is one. */
function gridKeys(event, { row, column, rows, columns, at }) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  let [toRow, toColumn] = [row, column];
  if (steps[event.key]) {
    toRow += steps[event.key][0];
    toColumn += steps[event.key][1];
  } else if (event.key === "Home") toColumn = 0;
  else if (event.key === "End") toColumn = columns - 1;
  else return;
  event.preventDefault();
  const cell = at(clamp(toRow, 0, rows - 1), clamp(toColumn, 0, columns - 1));
  if (cell) cell.focus();
}
