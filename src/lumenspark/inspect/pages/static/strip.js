// Coloured pieces of text, one of them selected.

const STRIP_BLOCK = 128; // pieces
const STRIP_LONG = 400; // more pieces than this scroll in a box of their own

/** pieces: texts. colour(element, i) paints one, describe(i) describes it.
    onpoint(i or null): the pointer is over a piece, or has left. */
function tokenStrip({ label, pieces, colour, describe, onchoose, onpoint }) {
  const long = pieces.length > STRIP_LONG;
  const count = long ? Math.ceil(pieces.length / STRIP_BLOCK) : 1;
  const blockOf = (i) => (long ? Math.floor(i / STRIP_BLOCK) : 0);
  const size = long ? STRIP_BLOCK : pieces.length;
  const blocks = Array.from({ length: count }, (_, i) =>
    h("div", {
      class: "strip-block",
      role: "presentation",
      "data-start": long ? i * STRIP_BLOCK : null,
    }),
  );
  const box = h(
    "div",
    { class: long ? "strip boxed" : "strip", role: "listbox", "aria-label": label },
    blocks,
  );
  let chosen = 0;

  const option = (i) => {
    const element = h(
      "span",
      {
        class: "token",
        role: "option",
        "data-token": i,
        tabindex: i === chosen ? 0 : -1,
        "aria-selected": String(i === chosen),
        "aria-label": describe(i),
        "aria-setsize": pieces.length,
        "aria-posinset": i + 1,
      },
      visible(pieces[i]),
    );
    colour(element, i);
    // Allow line breaks at spaces, which are drawn as dots.
    const before = /^\s/.test(pieces[i]) ? [h("wbr")] : [];
    return [...before, element, ...(pieces[i].endsWith("\n") ? [h("br")] : [])];
  };
  const lazy = lazyBlocks({
    box: long ? box : null,
    blocks,
    fill(block) {
      const start = block * size;
      const end = Math.min(start + size, pieces.length);
      return Array.from({ length: end - start }, (_, i) => option(start + i)).flat();
    },
    keep: (block) => block === blockOf(chosen),
  });

  const find = (i) => {
    lazy.show(blockOf(i));
    return box.querySelector(`[data-token="${i}"]`);
  };
  const choose = (i) => {
    for (const [at, on] of [[chosen, false], [i, true]]) {
      const element = find(at);
      element.tabIndex = on ? 0 : -1;
      element.setAttribute("aria-selected", String(on));
    }
    chosen = i;
    if (long) keepInView(box, find(i));
  };

  /** The piece above or below: in the adjacent line, the nearest to this one's centre. */
  const inNextLine = (from, step) => {
    const middle = (rect) => (rect.left + rect.right) / 2;
    const here = find(from).getBoundingClientRect();
    let [best, distance, line] = [from, Infinity, null];
    for (let i = from + step; i >= 0 && i < pieces.length; i += step) {
      const rect = find(i).getBoundingClientRect();
      if (Math.abs(rect.top - here.top) < here.height / 2) continue;
      line ??= rect.top;
      const away = Math.abs(middle(rect) - middle(here));
      if (Math.abs(rect.top - line) > here.height / 2 || away > distance) break;
      [best, distance] = [i, away];
    }
    return best;
  };
  const target = (event) => {
    const element = event.target.closest?.("[data-token]");
    return element ? Number(element.dataset.token) : null;
  };

  box.addEventListener("click", (event) => {
    if (target(event) !== null) onchoose(target(event));
  });
  box.addEventListener("pointerover", (event) => onpoint(target(event)));
  box.addEventListener("pointerleave", () => onpoint(null));
  box.addEventListener("keydown", (event) => {
    const moves = {
      ArrowRight: () => chosen + 1,
      ArrowLeft: () => chosen - 1,
      ArrowDown: () => inNextLine(chosen, 1),
      ArrowUp: () => inNextLine(chosen, -1),
      Home: () => 0,
      End: () => pieces.length - 1,
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    onpoint(null);
    onchoose(clamp(moves[event.key](), 0, pieces.length - 1));
    find(chosen).focus({ preventScroll: long });
  });
  theme.onchange(() => {
    if (theme.printing) lazy.showAll();
    lazy.refresh();
  });
  return { element: box, choose };
}
