// Latent vectors as ganctl draws them: its random streams, torch's random numbers, truncation.

// The low 32 bits of BLAKE2b with a digest of 8 bytes (RFC 7693), of a text shorter than 128 bytes.
function blake2b(text) {
  const mask = (1n << 64n) - 1n;
  const start = [
    0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
    0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
  ];
  const orders = [
    "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
    "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
    "0123456789abcdef", "ea489fd61c02b753",
  ];
  const bytes = new Uint8Array(128);
  bytes.set(new TextEncoder().encode(text));
  const words = Array.from(new BigUint64Array(bytes.buffer));
  const h = [...start];
  h[0] ^= 0x01010008n;
  const v = [...h, ...start];
  v[12] ^= BigInt(text.length);
  v[14] ^= mask;
  const turned = (x, n) => ((x >> n) | (x << (64n - n))) & mask;
  function mix(a, b, c, d, x, y) {
    v[a] = (v[a] + v[b] + x) & mask; v[d] = turned(v[d] ^ v[a], 32n);
    v[c] = (v[c] + v[d]) & mask; v[b] = turned(v[b] ^ v[c], 24n);
    v[a] = (v[a] + v[b] + y) & mask; v[d] = turned(v[d] ^ v[a], 16n);
    v[c] = (v[c] + v[d]) & mask; v[b] = turned(v[b] ^ v[c], 63n);
  }
  const places = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];
  for (const order of orders) {
    places.forEach((place, n) => mix(...place, words[parseInt(order[2 * n], 16)], words[parseInt(order[2 * n + 1], 16)]));
  }
  return Number((h[0] ^ v[0] ^ v[8]) & 0xffffffffn);
}

// The Mersenne twister MT19937, as a function that gives the next 32 bits.
function twister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let n = 1; n < 624; n++) state[n] = Math.imul(1812433253, state[n - 1] ^ (state[n - 1] >>> 30)) + n;
  let at = 624;
  return function next() {
    if (at === 624) {
      for (let n = 0; n < 624; n++) {
        const y = (state[n] & 0x80000000) | (state[(n + 1) % 624] & 0x7fffffff);
        state[n] = state[(n + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// What torch.randn gives on a CPU: Box and Muller's transform, of sixteen numbers at a time.
function normal(count, seed) {
  const next = twister(seed), z = new Float32Array(count);
  const uniform = () => (next() & 0xffffff) / 2 ** 24;
  const exact = () => {
    const high = next(), low = next();
    return ((high & 0x1fffff) * 2 ** 32 + low) / 2 ** 53;
  };
  if (count < 16) {
    for (let n = 0; n < count; n += 2) {
      const angle = 2 * Math.PI * exact(), radius = Math.sqrt(-2 * Math.log1p(-exact()));
      z[n] = radius * Math.cos(angle);
      if (n + 1 < count) z[n + 1] = radius * Math.sin(angle);
    }
    return z;
  }
  for (let n = 0; n < count; n++) z[n] = uniform();
  const transformed = (begin) => {
    for (let n = begin; n < begin + 8; n++) {
      const radius = Math.sqrt(-2 * Math.log(1 - z[n])), angle = 2 * Math.PI * z[n + 8];
      z[n] = radius * Math.cos(angle);
      z[n + 8] = radius * Math.sin(angle);
    }
  };
  for (let begin = 0; begin + 16 <= count; begin += 16) transformed(begin);
  if (count % 16) {
    for (let n = count - 16; n < count; n++) z[n] = uniform();
    transformed(count - 16);
  }
  return z;
}

// The error function by its series (Abramowitz and Stegun 7.1.6), and its inverse by Newton's method.
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

function inverseErf(y) {
  const log = Math.log(1 - y * y), part = 2 / (Math.PI * 0.147) + log / 2;
  let x = Math.sign(y) * Math.sqrt(Math.sqrt(part * part - log / 0.147) - part);
  for (let n = 0; n < 4; n++) x -= ((erf(x) - y) * Math.sqrt(Math.PI) * Math.exp(x * x)) / 2;
  return x;
}

// The latent vector of a seed, the normal distribution cut off at `truncation` if that is a number.
function latent(seed, truncation) {
  const z = normal(model.latent, blake2b(`${seed}/sample/`));
  if (truncation === null) return z;
  const half = erf(truncation / Math.SQRT2);
  return z.map((value) => Math.SQRT2 * inverseErf(half * erf(value / Math.SQRT2)));
}

// From `start` at share 0 to `end` at share 1, along the arc (White 2016).
function between(start, end, share) {
  let product = 0, first = 0, second = 0;
  start.forEach((value, n) => { product += value * end[n]; first += value ** 2; second += end[n] ** 2; });
  const angle = Math.acos(Math.min(1, Math.max(-1, product / Math.sqrt(first * second))));
  if (Math.sin(angle) < 1e-4) return start.map((value, n) => value + share * (end[n] - value));
  const [a, b] = [Math.sin((1 - share) * angle), Math.sin(share * angle)].map((s) => s / Math.sin(angle));
  return start.map((value, n) => a * value + b * end[n]);
}
