// Curves over training steps.

const CHART = { width: 520, height: 240, left: 52, right: 24, top: 12, bottom: 28 };
const LOGARITHMIC_FROM = 50; // the largest value, in terms of the smallest

async function curveSection(groups) {
  const charts = [];
  for (const { name, curves } of groups) {
    const unpacked = [];
    for (const curve of curves) {
      const [steps, values] = [await unpack(curve.steps), await unpack(curve.values)];
      unpacked.push({ name: curve.name, steps: steps.values, values: values.values });
    }
    if (unpacked.some(({ steps }) => steps.length)) charts.push(chart(name, unpacked));
  }
  return section(
    "training",
    "During training",
    "Point at a chart, or use the arrow keys in it, to read values at a step; point at a name to "
      + "highlight its curve.",
    h("div", { class: "charts" }, charts),
  );
}

function chart(name, curves) {
  const known = curves.flatMap(({ values }) => Array.from(values).filter(Number.isFinite));
  const steps = [...new Set(curves.flatMap((curve) => Array.from(curve.steps)))].sort((a, b) => a - b);
  const [low, high] = [known.reduce((a, b) => Math.min(a, b), Infinity), known.reduce((a, b) => Math.max(a, b), -Infinity)];
  const logarithmic = low > 0 && high / low >= LOGARITHMIC_FROM;
  const { x, y, yTicks } = chartScales(steps, low, high, logarithmic);
  const cursor = svg("line", { class: "cursor", y1: CHART.top, y2: CHART.height - CHART.bottom, visibility: "hidden" });
  const lines = curves.map((curve, i) =>
    svg("path", { class: `line hue-${i % 8} dash-${Math.floor(i / 8) % 3}`, d: path(curve, x, y) }),
  );
  const picture = svg(
    "svg",
    {
      viewBox: `0 0 ${CHART.width} ${CHART.height}`,
      tabindex: 0,
      role: "img",
      "aria-label": `${name}, steps ${steps[0]} to ${steps.at(-1)}; arrow keys read values`,
    },
    yTicks.map((value) => [
      svg("line", { class: "gridline", x1: CHART.left, x2: CHART.width - CHART.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: CHART.left - 8, y: y(value) + 4, "text-anchor": "end" }, compact(value)),
    ]).flat(),
    niceTicks(steps[0], steps.at(-1), 5).map((value) =>
      svg("text", { class: "tick", x: x(value), y: CHART.height - 8, "text-anchor": "middle" }, String(value)),
    ),
    lines,
    cursor,
  );
  const values = curves.map(() => h("td"));
  const caption = h("caption", { "aria-live": "polite" });
  const rows = curves.map((curve, i) =>
    h(
      "tr",
      {
        onpointerenter: () => emphasise(i),
        onpointerleave: () => emphasise(-1),
      },
      h("th", { scope: "row" }, svg("svg", { class: "key", viewBox: "0 0 24 8", "aria-hidden": "true" },
        svg("line", { class: lines[i].getAttribute("class"), x1: 0, x2: 24, y1: 4, y2: 4 })),
        h("span", {}, ...dotted(curve.name))),
      values[i],
    ),
  );
  let at = steps.length - 1;

  function emphasise(index) {
    lines.forEach((line, i) => line.classList.toggle("faint", index >= 0 && i !== index));
  }
  function read(index) {
    at = clamp(index, 0, steps.length - 1);
    caption.textContent = `at step ${steps[at]}`;
    curves.forEach((curve, i) => {
      const found = curve.steps.indexOf(steps[at]);
      values[i].textContent = found < 0 ? "–" : compact(curve.values[found]);
    });
    cursor.setAttribute("x1", x(steps[at]));
    cursor.setAttribute("x2", x(steps[at]));
  }
  picture.addEventListener("pointermove", (event) => {
    const rect = picture.getBoundingClientRect();
    const place = ((event.clientX - rect.left) / rect.width) * CHART.width;
    const distances = steps.map((step) => Math.abs(x(step) - place));
    cursor.setAttribute("visibility", "visible");
    read(distances.indexOf(Math.min(...distances)));
  });
  picture.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    cursor.setAttribute("visibility", "visible");
    read(moves[event.key]);
  });
  read(at);
  return h(
    "figure",
    { class: "chart", "data-group": name },
    h("figcaption", {}, h("h3", {}, name), logarithmic ? h("small", {}, "logarithmic scale") : null),
    picture,
    h("table", { class: "chart-values" }, caption, h("tbody", {}, rows)),
  );
}

function chartScales(steps, low, high, logarithmic) {
  const [first, last] = [steps[0], steps.at(-1)];
  const x = (step) =>
    CHART.left + ((step - first) / (last - first || 1)) * (CHART.width - CHART.left - CHART.right);
  const change = logarithmic ? Math.log10 : (value) => value;
  const yTicks = logarithmic ? powersOfTen(low, high) : niceTicks(low, high, 4);
  const [bottom, top] = [change(Math.min(low, ...yTicks)), change(Math.max(high, ...yTicks))];
  const room = CHART.height - CHART.top - CHART.bottom;
  const y = (value) => CHART.top + (1 - (change(value) - bottom) / (top - bottom || 1)) * room;
  return { x, y, yTicks };
}

function niceTicks(low, high, count) {
  if (!(high > low)) return Number.isFinite(low) ? [low] : [];
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((value) => value >= raw);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i += 1) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

function powersOfTen(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  return Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
}

/** Gaps at missing values; an isolated value is a dot. */
function path({ steps, values }, x, y) {
  let pen = "M";
  let d = "";
  for (let i = 0; i < steps.length; i += 1) {
    if (Number.isFinite(values[i])) {
      d += `${pen}${x(steps[i]).toFixed(2)} ${y(values[i]).toFixed(2)}${pen === "M" ? "h0" : ""}`;
      pen = "L";
    } else pen = "M";
  }
  return d;
}
