// The data of the page, written by pack.py.

const ARRAYS = { u1: Uint8Array, i4: Int32Array, f4: Float32Array };

/** A packed array with its shape, or a value packed as JSON. */
async function unpack(packed) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const response = new Response(stream);
  if (packed.kind === "json") return response.json();
  const values = new ARRAYS[packed.kind](await response.arrayBuffer());
  return { values, shape: packed.shape };
}

async function unpackGuesses(packed) {
  const [words, ids, probabilities] = await Promise.all(
    [packed.words, packed.ids, packed.probabilities].map(unpack),
  );
  const width = ids.shape[1];
  const one = (row, place) => ({
    word: words[ids.values[row * width + place]],
    probability: probabilities.values[row * width + place],
  });
  const count = (row) => {
    const end = ids.values.subarray(row * width, (row + 1) * width).indexOf(-1);
    return end < 0 ? width : end;
  };
  return { one, all: (row) => Array.from({ length: count(row) }, (_, place) => one(row, place)) };
}

function unpackScores(packed) {
  return Promise.all(
    packed.map(async ({ name, values }) => {
      const { values: numbers, shape } = await unpack(values);
      return { name, layers: shape[0], heads: shape[1], at: (l, k) => numbers[l * shape[1] + k] };
    }),
  );
}

/** One text in one model, unpacked; missing sections are undefined. */
async function unpackText(packed) {
  const text = {
    title: packed.title,
    tokens: await unpack(packed.tokens),
    loss: (await unpack(packed.loss)).values,
    guesses: await unpackGuesses(packed.guesses),
  };
  if (packed.maps) text.maps = await unpackMaps(packed.maps);
  if (packed.scores) text.scores = await unpackScores(packed.scores);
  if (packed.lens) {
    text.lens = { rows: packed.lens.rows, guesses: await unpackGuesses(packed.lens.guesses) };
  }
  if (packed.attribution) {
    const { values } = await unpack(packed.attribution.values);
    const count = text.tokens.length;
    const { parts } = packed.attribution;
    const of = (t) => parts.map((name, p) => ({ name, value: values[p * count + t] }));
    text.attribution = { parts, of };
  }
  if (packed.slots) text.slots = await unpack(packed.slots);
  return text;
}

/** All attention maps of a text: head(layer, index) is one of them. */
async function unpackMaps(packed) {
  const { values, shape } = await unpack(packed.overviews);
  const [layers, heads, size] = shape;
  const made = new Map();
  const make = (layer, index) => {
    const start = (layer * heads + index) * size;
    return new AttentionMap(packed, values.subarray(start, start + size), `${layer}.${index}`);
  };
  const head = (layer, index) => {
    const key = layer * heads + index;
    if (!made.has(key)) made.set(key, make(layer, index));
    return made.get(key);
  };
  return { layers, heads, tokens: packed.tokens, head };
}

/** One head's weights. Blocks are the cells of the overview: see HeadMap in content.py. */
class AttentionMap {
  constructor(packed, overview, name) {
    this.tokens = packed.tokens;
    this.blocks = packed.blocks;
    this.overview = overview;
    this.weights = AttentionMap.scale(packed.levels);
    this.wholeWeights = AttentionMap.scale(packed.wholeLevels);
    this.packedWhole = packed.whole[name];
    this.whole = null;
    this.largest = new Map();
  }

  /** The weight of each level. */
  static scale(levels) {
    return Float32Array.from({ length: levels + 1 }, (_, level) => (level / levels) ** 2);
  }

  /** Whether cells pool several weights, and no full map is there. */
  get coarse() {
    return this.blocks < this.tokens && !this.packedWhole;
  }

  /** Unpack the whole map, if there is one. */
  async load() {
    if (!this.packedWhole || this.whole) return;
    this.whole = (await unpack(this.packedWhole)).values;
    this.largest.clear();
  }

  blockOf(token) {
    return Math.floor(((token + 1) * this.blocks - 1) / this.tokens);
  }

  /** The first token of a block; for the block past the last, the number of tokens. */
  startOf(block) {
    return Math.floor((block * this.tokens) / this.blocks);
  }

  pooled(queryBlock, keyBlock) {
    return this.weights[this.overview[(queryBlock * (queryBlock + 1)) / 2 + keyBlock]];
  }

  /** The largest unpacked weight of a query, or of its block. */
  largestOf(query) {
    const row = this.whole ? query : this.blockOf(query);
    if (!this.largest.has(row)) {
      const [levels, weights] = this.whole
        ? [this.whole, this.wholeWeights]
        : [this.overview, this.weights];
      const start = (row * (row + 1)) / 2;
      const most = levels.subarray(start, start + row + 1).reduce((a, b) => Math.max(a, b), 0);
      this.largest.set(row, weights[most]);
    }
    return this.largest.get(row);
  }

  /** The weight of a key for a query, or the largest of the block without a full map. */
  weight(query, key) {
    if (key > query) return 0;
    if (this.whole) return this.wholeWeights[this.whole[(query * (query + 1)) / 2 + key]];
    return this.pooled(this.blockOf(query), this.blockOf(key));
  }
}
