// Runs a folder of `regionspot export --chain true` with onnxruntime-web: pixels and boxes in, names
// out. The same steps as examples/onnx_runner.py; `ort` is onnxruntime-web's module.

const STEPS = ["sam_encoder", "token_decoder", "clip_encoder", "head"];

export class RegionSpot {
  // Load the folder at a URL.
  static async load(ort, url) {
    const model = new RegionSpot();
    model.ort = ort;
    model.manifest = await (await fetched(`${url}/export.json`)).json();
    if (model.manifest.format_version !== 1) {
      throw new Error(`${url}/export.json has format_version ${model.manifest.format_version}, wanted 1`);
    }
    const bank = readNpz(await (await fetched(`${url}/text_bank.npz`)).arrayBuffer());
    model.names = bank.names.values;
    model.text = new ort.Tensor("float32", bank.embeddings.values, bank.embeddings.shape);
    model.sessions = {};
    for (const step of STEPS) {
      const file = await (await fetched(`${url}/${step}.onnx`)).arrayBuffer();
      model.sessions[step] = await ort.InferenceSession.create(new Uint8Array(file));
    }
    return model;
  }

  // Name boxes [[x1, y1, x2, y2], ...] in pixels of an image {width, height, data}, data as RGBA
  // bytes without transparency. Returns one {label, probability} per box.
  async recognize(image, boxes) {
    if (boxes.length === 0) return [];
    const { Tensor } = this.ort;
    const { sam, clip } = this.manifest;
    const { width, height } = image;
    const scale = sam.side_px / Math.max(width, height);
    const frame = [Math.floor(width * scale + 0.5), Math.floor(height * scale + 0.5)];
    const clipped = boxes.flatMap(([x1, y1, x2, y2]) => [
      clamp(x1, width), clamp(y1, height), clamp(x2, width), clamp(y2, height),
    ]);
    const sides = [width, height];
    const inFrame = clipped.map((value, index) => (value * frame[index % 2]) / sides[index % 2]);
    const relative = clipped.map((value, index) => Math.fround(value) / sides[index % 2]);
    const floats = (values, shape) => new Tensor("float32", Float32Array.from(values), shape);

    const { image_embedding } = await this.run("sam_encoder", { pixels: this.pixels(image, frame, sam) });
    const { position_tokens } = await this.run("token_decoder", {
      image_embedding,
      boxes: floats(inFrame, [boxes.length, 4]),
    });
    const square = [clip.side_px, clip.side_px];
    const { feature_map } = await this.run("clip_encoder", { pixels: this.pixels(image, square, clip) });
    const { probabilities } = await this.run("head", {
      position_tokens: new Tensor("float32", position_tokens.data, [1, ...position_tokens.dims]),
      feature_map,
      region_mask: new Tensor("bool", new Uint8Array(boxes.length).fill(1), [1, boxes.length]),
      text: this.text,
      boxes: floats(relative, [1, boxes.length, 4]),
    });
    return boxes.map((_, region) => {
      const row = probabilities.data.subarray(region * this.names.length, (region + 1) * this.names.length);
      const best = row.indexOf(Math.max(...row));
      return { label: this.names[best], probability: row[best] };
    });
  }

  // Run a step; inputs that it does not have are left out (the boxes, for most heads).
  run(step, inputs) {
    const session = this.sessions[step];
    return session.run(Object.fromEntries(session.inputNames.map((name) => [name, inputs[name]])));
  }

  // Resize an image to [width, height], normalise it, and pad it to the model's square input.
  pixels(image, [width, height], { side_px: side, mean, std }) {
    const levels = resizeBilinear(image, width, height);
    const values = new Float32Array(3 * side * side);
    for (let channel = 0; channel < 3; channel++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const level = levels[3 * (y * width + x) + channel];
          values[(channel * side + y) * side + x] = (level - mean[channel]) / std[channel];
        }
      }
    }
    return new this.ort.Tensor("float32", values, [1, 3, side, side]);
  }
}

// Resize RGBA bytes to RGB bytes as Pillow's bilinear filter does, in the same fixed-point numbers; a
// canvas would give other pixels than those that SAM and CLIP were trained on. Pillow may resize the
// height first, which changes some bytes by one.
export function resizeBilinear({ width, height, data }, newWidth, newHeight) {
  const rgb = new Uint8ClampedArray(3 * width * height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) rgb[3 * pixel + channel] = data[4 * pixel + channel];
  }
  const wide = resample(rgb, height, width, newWidth, 3 * width, 3);
  return resample(wide, newWidth, height, newHeight, 3, 3 * newWidth);
}

// Resample one axis: `lines` lines of `size` RGB pixels become lines of `newSize`. A line starts
// every `lineStep` bytes, and its pixels are `step` bytes apart; the result keeps the image's order.
function resample(bytes, lines, size, newSize, lineStep, step) {
  if (newSize === size) return bytes;
  const along = step === 3; // the axis is x
  const newLineStep = along ? 3 * newSize : lineStep;
  const result = new Uint8ClampedArray(3 * lines * newSize);
  const ratio = size / newSize;
  const support = Math.max(ratio, 1);
  for (let place = 0; place < newSize; place++) {
    const centre = (place + 0.5) * ratio;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(size, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let source = first; source < last; source++) {
      weights.push(Math.max(0, 1 - Math.abs((source - centre + 0.5) / support)));
    }
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const fixed = weights.map((weight) => Math.trunc((weight / total) * 2 ** 22 + 0.5));
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** 21;
        for (let index = 0; index < fixed.length; index++) {
          sum += fixed[index] * bytes[line * lineStep + (first + index) * step + channel];
        }
        result[line * newLineStep + place * step + channel] = Math.floor(sum / 2 ** 22);
      }
    }
  }
  return result;
}

// Read the arrays of a file of numpy.savez: a ZIP archive, not compressed, of .npy files. Returns
// {name: {shape, values}}; values are a Float32Array, or a list of texts.
export function readNpz(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (view.getUint32(end, true) !== 0x06054b50) end--;
  const arrays = {};
  let entry = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const nameLength = view.getUint16(entry + 28, true);
    const name = new TextDecoder().decode(new Uint8Array(buffer, entry + 46, nameLength));
    const start = view.getUint32(entry + 42, true);
    const data = start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
    arrays[name.replace(/\.npy$/, "")] = readNpy(view, data);
    entry += 46 + nameLength + view.getUint16(entry + 30, true) + view.getUint16(entry + 32, true);
  }
  return arrays;
}

function readNpy(view, start) {
  const headerLength = view.getUint16(start + 8, true);
  const header = new TextDecoder().decode(new Uint8Array(view.buffer, start + 10, headerLength));
  const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((n) => n.trim()).map(Number);
  const count = shape.reduce((product, length) => product * length, 1);
  const data = view.buffer.slice(start + 10 + headerLength);
  if (header.includes("'<f4'")) return { shape, values: new Float32Array(data, 0, count) };
  const length = Number(header.match(/'<U(\d+)'/)[1]);
  const codes = new Uint32Array(data, 0, count * length);
  const values = Array.from({ length: count }, (_, index) =>
    String.fromCodePoint(...codes.subarray(index * length, (index + 1) * length).filter((code) => code)),
  );
  return { shape, values };
}

function clamp(value, limit) {
  return Math.min(Math.max(value, 0), limit);
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} was not found (${response.status})`);
  return response;
}
