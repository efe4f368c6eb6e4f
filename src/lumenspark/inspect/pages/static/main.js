// The sections of a page, in order.

async function sectionsOfText({ text: packed }) {
  const text = await unpackText(packed);
  const choice = choiceOfToken(Math.min(1, text.tokens.length - 1));
  const maps = text.maps ? mapSection([text]) : null;
  return [
    textSection(text, choice),
    maps?.element,
    text.lens ? lensSection(text, choice) : null,
    text.scores ? scoreSection([text.scores], maps?.open) : null,
    text.attribution ? attributionSection(text, choice) : null,
    text.slots ? slotSection(text, choice) : null,
  ];
}

async function sectionsOfHeads({ scores, series }) {
  return [
    scores.length ? scoreSection([await unpackScores(scores)]) : null,
    series.length ? await curveSection(series) : null,
  ];
}

async function sectionsOfBoth({ texts: packed, ...comparison }) {
  const texts = await Promise.all(packed.map(unpackText));
  const haveMaps = texts.every(({ maps }) => maps);
  const haveScores = texts.every(({ scores }) => scores);
  const text = await comparedTextSection(texts, comparison);
  return [
    text,
    haveMaps ? mapSection(texts).element : null,
    haveScores ? scoreSection(texts.map(({ scores }) => scores)) : null,
  ];
}

/** Links to the sections, which scroll by script: inside a notebook's frame, anchors do not work. */
function navigation(sections) {
  const go = (event, target) => {
    event.preventDefault();
    target.focus({ preventScroll: true });
    target.scrollIntoView();
  };
  return h(
    "nav",
    { "aria-label": "Sections" },
    sections.map((target) =>
      h(
        "a",
        { href: `#${target.id}`, onclick: (event) => go(event, target) },
        target.querySelector("h2").textContent,
      ),
    ),
  );
}

async function start() {
  const main = document.getElementById("main");
  const themes = [["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]];
  document
    .querySelector(".top")
    .append(segmented("Colours", themes, theme.choice, theme.choose));
  theme.apply();
  try {
    const content = JSON.parse(document.getElementById("content").textContent);
    const build = { text: sectionsOfText, heads: sectionsOfHeads, compare: sectionsOfBoth };
    const sections = (await build[content.kind](content)).filter(Boolean);
    main.append(navigation(sections), ...sections);
  } catch (error) {
    main.append(h("p", { class: "note" }, `This page could not be drawn: ${error.message}`));
    throw error;
  }
  document.documentElement.dataset.state = "ready";
}

start();
