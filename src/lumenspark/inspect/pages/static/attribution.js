// Direct logit attribution: each component's contribution to the logit of the next token.

const PARTS_AT_ONCE = 40;
const LARGEST_PARTS = 24;

function attributionSection(text, choice) {
  const { tokens, guesses, attribution } = text;
  const many = attribution.parts.length > PARTS_AT_ONCE;
  let order = many ? "largest" : "model";
  const heading = h("p", { class: "chosen-token", "aria-live": "polite" });
  const body = h("tbody");
  const foot = h("tfoot");
  const table = h(
    "table",
    { class: "attribution" },
    h(
      "thead",
      { class: "unseen" },
      h("tr", {}, ["part", "bar", "adds"].map((name) => h("th", { scope: "col" }, name))),
    ),
    body,
    foot,
  );
  const step = (by, sign, label) =>
    h(
      "button",
      {
        type: "button",
        class: "small",
        "aria-label": label,
        onclick: () => choice.choose(clamp(choice.token + by, 0, tokens.length - 1)),
      },
      sign,
    );

  function show(t) {
    const isLast = t === tokens.length - 1;
    const target = isLast ? guesses.all(t)[0]?.word : tokens[t + 1];
    const parts = attribution.of(t);
    const sum = parts.reduce((total, { value }) => total + value, 0);
    const rows = order === "model" ? parts : bySize(parts);
    heading.replaceChildren(
      "After ",
      word(tokens[t]),
      h("small", {}, ` ${t}`),
      isLast ? ", the logit of the most likely next token" : ", the logit of the next token",
      ...(target === undefined ? [] : [": ", word(target)]),
    );
    const low = Math.min(0, ...rows.map(({ value }) => value));
    const high = Math.max(0, ...rows.map(({ value }) => value));
    body.replaceChildren(...rows.map((part) => attributionRow(part, low, high)));
    foot.replaceChildren(
      h(
        "tr",
        {},
        h("th", { scope: "row" }, "sum: the logit"),
        h("td"),
        h("td", { class: "sum" }, signed(sum, 3)),
      ),
    );
  }

  const orders = [["model", "in the model's order"], ["largest", "largest first"]];
  choice.onchange(show);
  return section(
    "attribution",
    "Attribution",
    "The contribution of each component to one logit: blue raises it, orange lowers it. Choose a token "
      + "in the text, in the lens, or here.",
    h(
      "div",
      { class: "controls" },
      step(-1, "‹", "previous token"),
      step(1, "›", "next token"),
      heading,
      segmented("Parts", orders, order, (value) => {
        order = value;
        show(choice.token);
      }),
    ),
    table,
  );
}

/** The largest first; beyond a limit, the small ones as one sum. */
function bySize(parts) {
  const sorted = [...parts].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  if (sorted.length <= PARTS_AT_ONCE) return sorted;
  const rest = sorted.splice(LARGEST_PARTS);
  const value = rest.reduce((total, part) => total + part.value, 0);
  return [...sorted, { name: `the other ${rest.length} parts`, value }];
}

function attributionRow({ name, value }, low, high) {
  const span = high - low || 1;
  const inner = h("span", { class: value < 0 ? "bar lowers" : "bar raises" });
  inner.style.left = `${(100 * (Math.min(0, value) - low)) / span}%`;
  inner.style.width = `${(100 * Math.abs(value)) / span}%`;
  const zero = h("span", { class: "zero" });
  zero.style.left = `${(100 * -low) / span}%`;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, ...dotted(name)),
    h("td", {}, h("span", { class: "track", "aria-hidden": "true" }, inner, zero)),
    h("td", {}, signed(value, 3)),
  );
}
