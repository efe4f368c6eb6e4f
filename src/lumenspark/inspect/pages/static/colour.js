// Colour scales distinguishable by lightness alone; light, dark and print themes.

const SEQUENTIAL = {
  light: ["#f3f5f4", "#d5ede2", "#9dd7c2", "#57b9af", "#3792a2", "#366b97", "#3d4583", "#2a1f4d"],
  dark: ["#1f232b", "#2f2c56", "#3a4788", "#3a6d9b", "#3e96a5", "#5dbbb0", "#a4dbc5", "#ecf8f0"],
};
const DIVERGING = {
  light: ["#7f3500", "#cf6a10", "#f0b878", "#f4f4f2", "#a6c8ec", "#3d83cc", "#0b3b80"],
  dark: ["#ffc07a", "#d67c22", "#7a4a20", "#22262d", "#25507f", "#3d87d4", "#a5d0ff"],
};

const theme = (() => {
  const KEY = "lumenspark-theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const print = matchMedia("print");
  const listeners = [];
  let choice = remembered();
  let printing = print.matches;

  function remembered() {
    try {
      return localStorage.getItem(KEY) ?? "auto";
    } catch {
      return "auto"; // a sandboxed frame has no storage
    }
  }

  function apply() {
    if (choice === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    for (const listener of listeners) listener();
  }

  function choose(value) {
    choice = value;
    try {
      localStorage.setItem(KEY, value);
    } catch {
      // without storage, the choice lasts until the page is closed
    }
    apply();
  }

  function setPrinting(value) {
    if (value === printing) return;
    printing = value;
    apply();
  }

  dark.addEventListener("change", apply);
  print.addEventListener("change", () => setPrinting(print.matches));
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));

  return {
    apply,
    choose,
    get choice() {
      return choice;
    },
    get printing() {
      return printing;
    },
    get name() {
      if (printing) return "light";
      return choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
    },
    /** Call `listener` when colours change, and before and after printing. */
    onchange: (listener) => listeners.push(listener),
  };
})();

const tables = new Map();

/** 256 colours as [r, g, b], interpolated between the stops of a scale. */
function colours(scale) {
  const stops = scale[theme.name];
  if (!tables.has(stops)) {
    const points = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
    const table = Array.from({ length: 256 }, (_, index) => {
      const place = (index / 255) * (points.length - 1);
      const lower = Math.min(Math.floor(place), points.length - 2);
      const share = place - lower;
      return points[lower].map((v, c) => Math.round(v + share * (points[lower + 1][c] - v)));
    });
    tables.set(stops, table);
  }
  return tables.get(stops);
}

/** value: 0 to 1 */
function colourAt(scale, value) {
  return colours(scale)[Math.round(255 * clamp(value, 0, 1))];
}

function luminance(colour) {
  const [r, g, b] = colour.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Set an element's background, and its text to black or white for contrast. */
function paint(element, scale, value) {
  if (!Number.isFinite(value)) {
    element.style.backgroundColor = element.style.color = "";
    return;
  }
  const colour = colourAt(scale, value);
  element.style.backgroundColor = `rgb(${colour.join(" ")})`;
  element.style.color = luminance(colour) > 0.179 ? "#000" : "#fff"; // 4.58 : 1 at least
}

/** The colour scale with labels at both ends. */
function legend(scale, low, high) {
  const strip = h("canvas", { width: 128, height: 1, "aria-hidden": "true" });
  const draw = () => {
    const context = strip.getContext("2d");
    for (let x = 0; x < 128; x += 1) {
      context.fillStyle = `rgb(${colourAt(scale, x / 127).join(" ")})`;
      context.fillRect(x, 0, 1, 1);
    }
  };
  draw();
  theme.onchange(draw);
  return h("p", { class: "legend" }, h("span", {}, low), strip, h("span", {}, high));
}
