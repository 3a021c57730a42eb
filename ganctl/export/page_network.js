// The program of ganctl/export/program.py, carried out with typed arrays.

function numbers(id, half) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  document.getElementById(id).textContent = "";
  if (!half) return new Float32Array(bytes.buffer);
  return Float32Array.from(new Uint16Array(bytes.buffer), unpacked);
}

// IEEE 754's half precision, as a number.
function unpacked(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// out[(row * step + first) * width ...] = bias + rows (n, inner) times a matrix (width, inner), turned.
function multiply(rows, n, inner, matrix, width, bias, put) {
  for (let o = 0; o < width; o += 4) {
    const many = Math.min(4, width - o);
    const w0 = matrix + o * inner, w1 = w0 + (many > 1 ? inner : 0), w2 = w0 + (many > 2 ? 2 * inner : 0), w3 = w0 + (many > 3 ? 3 * inner : 0);
    const b = [0, 1, 2, 3].map((k) => (bias === null || k >= many ? 0 : vectors[bias + o + k]));
    for (let r = 0; r < n; r += 2) {
      const p = r * inner, q = r + 1 < n ? p + inner : p;
      let a0 = b[0], a1 = b[1], a2 = b[2], a3 = b[3], c0 = a0, c1 = a1, c2 = a2, c3 = a3;
      for (let i = 0; i < inner; i++) {
        const x = rows[p + i], y = rows[q + i];
        const m0 = matrices[w0 + i], m1 = matrices[w1 + i], m2 = matrices[w2 + i], m3 = matrices[w3 + i];
        a0 += x * m0; a1 += x * m1; a2 += x * m2; a3 += x * m3;
        c0 += y * m0; c1 += y * m1; c2 += y * m2; c3 += y * m3;
      }
      put(r, o, many, a0, a1, a2, a3);
      if (q !== p) put(r + 1, o, many, c0, c1, c2, c3);
    }
  }
}

function into(out, width, place) {
  return (row, o, many, a, b, c, d) => {
    const at = place(row) * width + o;
    out[at] = a;
    if (many > 1) out[at + 1] = b;
    if (many > 2) out[at + 2] = c;
    if (many > 3) out[at + 3] = d;
  };
}

function map(side, channels, values) {
  return { side, channels, values: values || new Float32Array(side * side * channels) };
}

// A vector of `width`: bias and a matrix times `values`.
function affine(values, matrix, width, bias) {
  const out = new Float32Array(width);
  multiply(values, 1, values.length, matrix, width, bias, into(out, width, () => 0));
  return out;
}

const operations = {
  dense(op, x) {
    const values = affine(x.values, op.matrix, op.outputs, op.bias);
    return map(1, op.outputs, values.map((v) => (v < 0 ? op.slope * v : v)));
  },

  linear(op, x) {
    return map(op.side, op.channels, affine(x.values, op.matrix, op.side * op.side * op.channels, op.bias));
  },

  conv(op, x) {
    const [inputs, channels] = op.channels, { up, parts } = op, side = x.side;
    const out = map(side * up, channels);
    for (const part of parts) {
      const inner = part.taps.length * inputs, pixels = new Float32Array(side * inner);
      for (let y = 0; y < side; y++) {
        part.taps.forEach(([dy, dx], tap) => {
          for (let column = 0; column < side; column++) {
            const at = column * inner + tap * inputs, sy = y + dy, sx = column + dx;
            if (sy < 0 || sx < 0 || sy >= side || sx >= side) pixels.fill(0, at, at + inputs);
            else pixels.set(x.values.subarray((sy * side + sx) * inputs, (sy * side + sx + 1) * inputs), at);
          }
        });
        const place = (column) => (y * up + part.at[0]) * side * up + column * up + part.at[1];
        multiply(pixels, side, inner, part.matrix, channels, part.bias, into(out.values, channels, place));
      }
    }
    return out;
  },

  norm(op, x, state) {
    const { channels, rows } = op, out = map(x.side, channels);
    const table = (begin) => {
      if (rows === 1) return vectors.subarray(begin, begin + channels);
      const mixed = new Float32Array(channels);
      for (const [row, share] of state.shares) {
        for (let c = 0; c < channels; c++) mixed[c] += share * vectors[begin + row * channels + c];
      }
      return mixed;
    };
    const scale = table(op.scale), shift = table(op.shift);
    for (let n = 0; n < out.values.length; n++) out.values[n] = x.values[n] * scale[n % channels] + shift[n % channels];
    return out;
  },

  modulate(op, x, state) {
    const { channels } = op, style = state.kept.values, out = map(x.side, channels);
    const scale = affine(style, op.scale, channels, op.scale_bias), shift = affine(style, op.shift, channels, op.shift_bias);
    for (let n = 0; n < out.values.length; n++) out.values[n] = x.values[n] * scale[n % channels] + shift[n % channels];
    return out;
  },

  keep(op, x, state) {
    state.kept = x;
    return x;
  },

  shortcut(op, x, state) {
    const { kept } = state, { channels, side } = x;
    const small = new Float32Array(kept.side * kept.side * channels);
    multiply(kept.values, kept.side * kept.side, kept.channels, op.matrix, channels, op.bias, into(small, channels, (row) => row));
    for (let n = 0; n < side * side; n++) {
      const from = ((Math.floor(n / side) >> 1) * kept.side + ((n % side) >> 1)) * channels;
      for (let c = 0; c < channels; c++) x.values[n * channels + c] += small[from + c];
    }
    return x;
  },

  attention(op, x, state) {
    const { channels, side } = x, many = side * side, narrow = channels / 8, half = channels / 2;
    const mapped = (matrix, width) => {
      const out = new Float32Array(many * width);
      multiply(x.values, many, channels, matrix, width, null, into(out, width, (row) => row));
      return out;
    };
    const query = mapped(op.query, narrow);
    const key = pooled(mapped(op.key, narrow), side, narrow, op.pooled), value = pooled(mapped(op.value, half), side, half, op.pooled);
    const look = { query, key, narrow, factor: op.factor, side, keys: op.pooled ? side / 2 : side };
    state.looks.push(look);
    const attended = new Float32Array(many * half);
    for (let n = 0; n < many; n++) {
      const weights = lookOf(look, n);
      for (let k = 0; k < weights.length; k++) {
        for (let c = 0; c < half; c++) attended[n * half + c] += weights[k] * value[k * half + c];
      }
    }
    const added = new Float32Array(many * channels);
    multiply(attended, many, half, op.output, channels, null, into(added, channels, (row) => row));
    return map(side, channels, x.values.map((v, n) => v + op.gamma * added[n]));
  },

  tanh: (op, x) => map(x.side, x.channels, x.values.map(Math.tanh)),
};

function pooled(values, side, channels, wanted) {
  if (!wanted) return values;
  const half = side / 2, out = new Float32Array(half * half * channels).fill(-Infinity);
  for (let n = 0; n < side * side; n++) {
    const to = ((Math.floor(n / side) >> 1) * half + ((n % side) >> 1)) * channels;
    for (let c = 0; c < channels; c++) out[to + c] = Math.max(out[to + c], values[n * channels + c]);
  }
  return out;
}

// Where position n of an attention block looks: weights that sum to 1.
function lookOf({ query, key, narrow, factor, keys }, n) {
  const weights = new Float32Array(keys * keys);
  let largest = -Infinity;
  for (let k = 0; k < weights.length; k++) {
    let product = 0;
    for (let c = 0; c < narrow; c++) product += query[n * narrow + c] * key[k * narrow + c];
    largest = Math.max(largest, (weights[k] = factor * product));
  }
  let sum = 0;
  for (let k = 0; k < weights.length; k++) sum += weights[k] = Math.exp(weights[k] - largest);
  return weights.map((weight) => weight / sum);
}

// shares: pairs of a class and its share. Levels are RGBA; looks are those of the attention blocks.
function generate(z, shares) {
  const state = { shares, looks: [], kept: null };
  let x = { values: z, side: 1, channels: z.length };
  for (const op of model.operations) {
    x = operations[op.kind](op, x, state);
    if (op.relu) for (let n = 0; n < x.values.length; n++) if (x.values[n] < 0) x.values[n] = 0;
  }
  const levels = new Uint8ClampedArray(4 * x.side * x.side).fill(255);
  for (let n = 0; n < x.side * x.side; n++) {
    for (let c = 0; c < 3; c++) levels[4 * n + c] = Math.round((x.values[3 * n + c] + 1) * 127.5);
  }
  return { levels, looks: state.looks, side: x.side };
}
