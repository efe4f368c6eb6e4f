// Two models on one text: which predicts better, and where.

async function comparedTextSection(texts, { comparison, overall, unit }) {
  const ranges = (await unpack(comparison.ranges)).values;
  const [left, right] = [(await unpack(comparison.left)).values, (await unpack(comparison.right)).values];
  const range = (i, side) => [ranges[4 * i + 2 * side], ranges[4 * i + 2 * side + 1]];
  const pieces = Array.from(left, (_, i) => texts[0].tokens.slice(...range(i, 0)).join(""));
  const difference = Array.from(left, (_, i) => right[i] - left[i]);
  const scale = differenceScale(difference);
  const choice = choiceOfToken(Math.max(0, difference.findIndex(Number.isFinite)));
  const detail = h("div", { class: "detail", "aria-live": "polite" });
  const show = (i) =>
    detail.replaceChildren(
      h("h3", {}, word(pieces[i]), h("small", {}, ` ${i + 1} of ${pieces.length}, in ${unit}`)),
      lossesOfBoth(left[i], right[i]),
      ...texts.map((text, side) => tokensOfOne(text, "AB"[side], range(i, side))),
    );
  const strip = tokenStrip({
    label: "Text by difference in loss",
    pieces,
    colour: (element, i) => paint(element, DIVERGING, 0.5 - difference[i] / (2 * scale)),
    describe: (i) => `${visible(pieces[i])}, A ${decimal(left[i])}, B ${decimal(right[i])} ${unit}`,
    onchoose: choice.choose,
    onpoint: (i) => show(i ?? choice.token),
  });
  choice.onchange((i) => {
    strip.choose(i);
    show(i);
  });
  return section(
    "text",
    "Text",
    unit === "nats per token"
      ? "Blue where B predicted a token better than A, orange where worse."
      : "The two models have different tokens, so losses are compared over the shortest spans of "
        + "whole tokens in both: blue where B needs fewer bits per byte, orange where more.",
    totals(overall, difference, unit),
    legend(DIVERGING, `A better by ${compact(scale)}`, `B better by ${compact(scale)} ${unit}`),
    h("div", { class: "beside" }, strip.element, detail),
  );
}

function differenceScale(difference) {
  const sizes = difference.filter(Number.isFinite).map(Math.abs).sort((a, b) => a - b);
  return Math.max(0.5, sizes[Math.floor(0.95 * (sizes.length - 1))] ?? 0.5);
}

function totals(overall, difference, unit) {
  if (overall.includes(null)) return h("p", {}, "No token was predicted by both models.");
  const better = difference.filter((value) => value < 0).length;
  const known = difference.filter(Number.isFinite).length;
  const [a, b] = overall;
  return h(
    "p",
    { class: "totals" },
    `A ${decimal(a, 3)}, B ${decimal(b, 3)} ${unit}: a difference of `,
    h("b", {}, signed(b - a, 3)),
    `. B is better on ${better} of ${known} ${unit === "nats per token" ? "tokens" : "spans"}.`,
  );
}

function lossesOfBoth(a, b) {
  const row = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  if (!Number.isFinite(b - a)) return h("p", { class: "muted" }, "Not compared: one model has no prediction here.");
  return h(
    "dl",
    { class: "figures" },
    row("A", decimal(a)),
    row("B", decimal(b)),
    row("B − A", signed(b - a)),
  );
}

/** A model's tokens of a span, and its predictions there. */
function tokensOfOne(text, name, [start, end]) {
  const cut =
    end - start > 1
      ? h(
          "p",
          { class: "cut" },
          `${name}: `,
          ...text.tokens
            .slice(start, end)
            .map((token, i) => [word(token), h("small", {}, ` ${decimal(text.loss[start + i])} nats `)])
            .flat(),
        )
      : null;
  const known = start > 0 && Number.isFinite(text.loss[start]);
  const guesses = known
    ? guessList(`Predictions of ${name} here`, text.guesses.all(start - 1), text.tokens[start])
    : h("p", { class: "muted" }, `${name} has no prediction here.`);
  return h("div", { class: "of-one" }, cut, guesses);
}
