// The readout of a large map: the weight under the cursor, and its query's largest weights.

function describeWeight({ tokens }, map, { query, key }) {
  const place = (name, t) =>
    h(
      "div",
      {},
      h("dt", {}, `${name} ${t}`),
      h("dd", {}, h("span", { class: "context" }, ...context(tokens, t))),
    );
  const largest = map.coarse ? "largest weight of the block" : "weight";
  const weight =
    key > query
      ? "–, the key comes after the query"
      : weightText(map.weight(query, key));
  return [
    h(
      "dl",
      { class: "figures" },
      place("query", query),
      place("key", key),
      h("div", {}, h("dt", {}, largest), h("dd", { class: "weight" }, weight)),
    ),
    strongestKeys(tokens, map, query),
  ];
}

function weightText(weight) {
  return weight > 0 && weight < 0.0001 ? "<0.0001" : String(Number(weight.toPrecision(3)));
}

/** A token between its neighbours. */
function context(tokens, t) {
  const around = (start, end) => tokens.slice(Math.max(0, start), end).map(visible).join("");
  return [
    h("bdi", { class: "muted" }, around(t - 3, t)),
    h("b", {}, word(tokens[t])),
    h("bdi", { class: "muted" }, around(t + 1, t + 4)),
  ];
}

/** The query's largest weights; in a pooled map, those of its block. */
function strongestKeys(tokens, map, query) {
  const places = map.coarse
    ? Array.from({ length: map.blockOf(query) + 1 }, (_, block) => map.startOf(block))
    : Array.from({ length: query + 1 }, (_, key) => key);
  const rows = places
    .map((key) => ({ key, weight: map.weight(query, key) }))
    .sort((a, b) => b.weight - a.weight)
    .slice(0, 6)
    .filter(({ weight }) => weight > 0)
    .map(({ key, weight }) => {
      const last = map.coarse ? Math.min(query, map.startOf(map.blockOf(key) + 1) - 1) : key;
      const name = last > key ? `tokens ${key}–${last}` : [word(tokens[key]), h("small", {}, ` ${key}`)];
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, ...[name].flat()),
        h("td", {}, bar(weight)),
        h("td", {}, weightText(weight)),
      );
    });
  return h("table", { class: "guesses" }, h("caption", {}, "Largest weights of this query"), h("tbody", {}, rows));
}
