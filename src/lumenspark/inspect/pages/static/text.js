// The text, coloured by loss, with the model's predictions at each token.

function textSection(text, choice) {
  const { tokens, loss } = text;
  const scale = lossScale(loss);
  const detail = h("div", { class: "detail", "aria-live": "polite" });
  const show = (t) => detail.replaceChildren(...tokenDetail(text, t));
  const strip = tokenStrip({
    label: "Text by tokens",
    pieces: tokens,
    colour: (element, t) => paint(element, SEQUENTIAL, loss[t] / scale),
    describe: (t) => describeToken(text, t),
    onchoose: choice.choose,
    onpoint: (t) => show(t ?? choice.token),
  });
  choice.onchange((t) => {
    strip.choose(t);
    show(t);
  });
  return section(
    "text",
    "Text",
    "The darker a token, the higher its loss. Point at a token to see the model's predictions; "
      + "click to select it for the sections below.",
    legend(SEQUENTIAL, "0 nats", `${scale} nats or more`),
    h("div", { class: "beside" }, strip.element, detail),
  );
}

/** The loss of the last colour: all but the largest losses are below it. */
function lossScale(loss) {
  const known = Array.from(loss).filter(Number.isFinite).sort((a, b) => a - b);
  return Math.max(1, Math.ceil(known[Math.floor(0.9 * (known.length - 1))] ?? 1));
}

function describeToken({ tokens, loss }, t) {
  const known = Number.isFinite(loss[t]);
  return `${visible(tokens[t])}, ${known ? `loss ${decimal(loss[t])} nats` : "not predicted"}`;
}

function tokenDetail(text, t) {
  const { tokens, loss, guesses } = text;
  const known = Number.isFinite(loss[t]);
  return [
    h("h3", {}, word(tokens[t]), h("small", {}, ` token ${t} of ${tokens.length}`)),
    known
      ? h(
          "dl",
          { class: "figures" },
          h("div", {}, h("dt", {}, "loss"), h("dd", {}, `${decimal(loss[t])} nats`)),
          h("div", {}, h("dt", {}, "probability"), h("dd", {}, percent(Math.exp(-loss[t])))),
        )
      : h("p", { class: "muted" }, "No prediction: this is the beginning of the text."),
    t > 0 && known ? guessList("Predictions here", guesses.all(t - 1), tokens[t]) : null,
    guessList("Predictions for the next token", guesses.all(t), tokens[t + 1]),
  ].filter(Boolean);
}

/** Guesses with their probabilities; the correct one is marked. */
function guessList(title, guesses, came) {
  const rows = guesses.map(({ word: guess, probability }) =>
    h(
      "tr",
      { class: guess === came ? "came" : null },
      h("th", { scope: "row" }, word(guess), guess === came ? " ✓" : null),
      h("td", {}, bar(probability)),
      h("td", {}, percent(probability)),
    ),
  );
  return h("table", { class: "guesses" }, h("caption", {}, title), h("tbody", {}, rows));
}
