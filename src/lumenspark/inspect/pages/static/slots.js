// Low-rank attention: the tokens in each slot of a head.

function slotSection({ tokens, slots }, choice) {
  const layers = slots.map((heads, layer) => ({ heads, layer })).filter(({ heads }) => heads.length);
  let [layer, head] = [layers[0].layer, 0];
  const list = h("div", { class: "slots" });
  const heads = h("div");

  function chooseLayer(value) {
    layer = value;
    head = Math.min(head, slots[layer].length - 1);
    const options = slots[layer].map((_, i) => [String(i), String(i)]);
    heads.replaceChildren(segmented("Head", options, String(head), (next) => show(Number(next))));
    show(head);
  }

  function show(next) {
    head = next;
    const shares = slots[layer][head].flat().map(([, share]) => share);
    const most = shares.reduce((a, b) => Math.max(a, b), 0);
    const filled = slots[layer][head].map((held, slot) => ({ held, slot })).filter(({ held }) => held.length);
    const empty = slots[layer][head].length - filled.length;
    list.replaceChildren(
      ...filled.map((slot) => slotCard(slot, most)),
      empty ? h("p", { class: "muted" }, `${empty} slots are empty.`) : "",
    );
  }

  function slotCard({ held, slot }, most) {
    const rows = held.map(([position, share]) =>
      h(
        "tr",
        {},
        h(
          "th",
          { scope: "row" },
          h(
            "button",
            { type: "button", class: "plain", onclick: () => choice.choose(position) },
            word(tokens[position]),
            h("small", {}, ` ${position}`),
          ),
        ),
        h("td", {}, bar(share / most)),
        h("td", {}, percent(share)),
      ),
    );
    return h("table", { class: "guesses", "data-slot": slot }, h("caption", {}, `slot ${slot}`), h("tbody", {}, rows));
  }

  chooseLayer(layer);
  const options = layers.map((entry) => [String(entry.layer), String(entry.layer)]);
  return section(
    "slots",
    "Slots",
    "The tokens with the largest shares in each slot of a head. "
      + "Bars are relative to the largest share in the head.",
    h(
      "div",
      { class: "controls" },
      segmented("Layer", options, String(layer), (value) => chooseLayer(Number(value))),
      heads,
    ),
    list,
  );
}
