import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { execFileSync } from "node:child_process"
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import fc from "fast-check"
import {
  constantTensor,
  GgufError,
  type GgufToWrite,
  ggufInteger,
  ggufString,
  layerBytes,
  readGguf,
  readGgufArray,
  saveGgufOutline,
  writeGguf,
} from "./index.ts"

let folder = ""
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-gguf-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const inFolder = (name: string) => join(folder, name)

/** Of any type: its bytes mean nothing. */
const filled = (name: string, type: string, ne: number[]): GgufToWrite["tensors"][number] => ({
  name,
  type,
  ne,
  fill: (target) => target.fill(7),
})

const sample: GgufToWrite = {
  metadata: [
    ["general.architecture", { type: "string", value: "llama" }],
    ["llama.block_count", { type: "uint32", value: 2 }],
    ["a.u8", { type: "uint8", value: 255 }],
    ["a.i8", { type: "int8", value: -128 }],
    ["a.u16", { type: "uint16", value: 65535 }],
    ["a.i16", { type: "int16", value: -32768 }],
    ["a.i32", { type: "int32", value: -(2 ** 31) }],
    ["a.f32", { type: "float32", value: 0.25 }],
    ["a.bool", { type: "bool", value: true }],
    ["a.u64", { type: "uint64", value: 2n ** 64n - 1n }],
    ["a.i64", { type: "int64", value: -(2n ** 63n) }],
    ["a.f64", { type: "float64", value: Math.PI }],
    ["a.text", { type: "string", value: "naïve ▁" }],
    ["a.words", { type: "array", elementType: "string", values: ["one", "", "\uFEFFthree ▁"] }],
    ["a.scores", { type: "array", elementType: "float32", values: [-1.5, 0, 3] }],
    ["a.flags", { type: "array", elementType: "bool", values: [true, false] }],
  ],
  tensors: [
    filled("token_embd.weight", "F16", [64, 10]),
    filled("blk.0.attn_q.weight", "Q8_0", [64, 3]),
    constantTensor("blk.0.attn_norm.weight", "F32", [63], 1),
    filled("blk.1.attn_q.weight", "Q4_0", [64, 3, 2, 2]),
    constantTensor("output_norm.weight", "F32", [64], 1),
    constantTensor("rope_freqs.weight", "F32", [8], 1),
  ],
}

/** The error that `read` throws; fails the test when it does not throw a GgufError. */
const errorOf = (read: () => unknown): GgufError => {
  try {
    read()
  } catch (error) {
    if (error instanceof GgufError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

const writeBytes = (name: string, bytes: Uint8Array): string => {
  const path = inFolder(name)
  writeFileSync(path, bytes)
  return path
}

const sampleBytes = (): Uint8Array => {
  const path = inFolder("sample-bytes.gguf")
  writeGguf(path, sample)
  return new Uint8Array(readFileSync(path))
}

/** Header bytes by hand: magic, version, tensor count, metadata count, then `rest`. */
const header = (version: number, tensors: bigint, metadata: bigint, rest: number[] = []) => {
  const view = new DataView(new ArrayBuffer(24 + rest.length))
  view.setUint32(0, 0x46554747, true)
  view.setUint32(4, version, true)
  view.setBigUint64(8, tensors, true)
  view.setBigUint64(16, metadata, true)
  const bytes = new Uint8Array(view.buffer)
  bytes.set(rest, 24)
  return bytes
}

const u32 = (value: number) => [...new Uint8Array(new Uint32Array([value]).buffer)]
const u64 = (value: bigint) => [...new Uint8Array(new BigUint64Array([value]).buffer)]
const text = (value: string) => {
  const bytes = new TextEncoder().encode(value)
  return [...u64(BigInt(bytes.length)), ...bytes]
}

describe("what is written reads back", () => {
  test("metadata of every type", () => {
    const path = inFolder("sample.gguf")
    writeGguf(path, sample)
    const gguf = readGguf(path)
    expect(gguf.version).toBe(3)
    expect(gguf.metadata.size).toBe(sample.metadata.length)
    for (const [key, value] of sample.metadata) expect(gguf.metadata.get(key)).toMatchObject(value)
    expect(ggufInteger(gguf, "a.i8")).toBe(-128)
    expect(ggufInteger(gguf, "a.u64")).toBeUndefined()
    expect(ggufInteger(gguf, "a.text")).toBeUndefined()
    expect(ggufString(gguf, "a.text")).toBe("naïve ▁")
    expect(ggufString(gguf, "missing")).toBeUndefined()
  })

  test("tensors lie where the header says", () => {
    const path = inFolder("sample.gguf")
    writeGguf(path, sample)
    const gguf = readGguf(path)
    const sizes = gguf.tensors.map((tensor) => [tensor.name, tensor.typeName, tensor.sizeBytes])
    expect(sizes).toEqual([
      ["token_embd.weight", "F16", 1280],
      ["blk.0.attn_q.weight", "Q8_0", 204],
      ["blk.0.attn_norm.weight", "F32", 252],
      ["blk.1.attn_q.weight", "Q4_0", 432],
      ["output_norm.weight", "F32", 256],
      ["rope_freqs.weight", "F32", 32],
    ])
    expect(gguf.tensors[3]!.ne).toEqual([64, 3, 2, 2])
    expect(gguf.tensors[3]!.dimensionCount).toBe(4)
    expect(gguf.tensorBytes).toBe(2456)
    const part = gguf.parts[0]!
    const norm = gguf.tensors[2]!
    const bytes = readFileSync(path).subarray(part.dataOffsetBytes + norm.offsetBytes)
    expect(bytes.readFloatLE(0)).toBe(1)
    expect(bytes.readFloatLE(62 * 4)).toBe(1)
    expect(bytes.readFloatLE(63 * 4)).toBe(0)
    expect(part.fileBytes % 32).toBe(0)
  })

  test("long arrays are left in the file until asked for", () => {
    const path = inFolder("sample.gguf")
    writeGguf(path, sample)
    const gguf = readGguf(path, { arrayLimit: 2 })
    const words = gguf.metadata.get("a.words")
    expect(words).toMatchObject({ type: "array", elementType: "string", length: 3 })
    expect(words).not.toHaveProperty("values")
    expect(readGgufArray(gguf, "a.words")).toEqual(["one", "", "\uFEFFthree ▁"])
    expect(readGgufArray(gguf, "a.scores")).toEqual([-1.5, 0, 3])
    expect(readGgufArray(gguf, "a.flags")).toEqual([true, false])
    expect(readGgufArray(gguf, "a.text")).toBeUndefined()
  })

  test("headers larger than the read buffer, and strings larger than it", () => {
    const path = inFolder("large.gguf")
    const words = Array.from({ length: 30_000 }, (_, index) => `token ${index}`)
    const long = "x".repeat(200_000)
    writeGguf(path, {
      metadata: [
        ["words", { type: "array", elementType: "string", values: words }],
        ["long", { type: "string", value: long }],
        ["after", { type: "uint32", value: 7 }],
      ],
      tensors: [],
    })
    const gguf = readGguf(path)
    expect(readGgufArray(gguf, "words")).toEqual(words)
    expect(ggufString(gguf, "long")).toBe(long)
    expect(ggufInteger(gguf, "after")).toBe(7)
  })
})

describe("layer bytes", () => {
  test("blocks, input, output and the rest, with tied embeddings counted twice", () => {
    const path = inFolder("sample.gguf")
    writeGguf(path, sample)
    expect(layerBytes(readGguf(path))).toEqual({
      layers: [204 + 252, 432],
      inputBytes: 1280,
      outputBytes: 256 + 1280,
      otherBytes: 32,
      tiedOutput: true,
    })
  })

  test("an output matrix of its own, blocks beyond the stated count, absurd block numbers", () => {
    const path = inFolder("untied.gguf")
    writeGguf(path, {
      metadata: [["general.architecture", { type: "string", value: "llama" }]],
      tensors: ["token_embd", "output", "output_norm", "blk.2.ffn_up", "blk.9999.x"].map((name) =>
        constantTensor(`${name}.weight`, "F32", [8], 0),
      ),
    })
    expect(layerBytes(readGguf(path))).toEqual({
      layers: [0, 0, 32],
      inputBytes: 32,
      outputBytes: 64,
      otherBytes: 32,
      tiedOutput: false,
    })
  })
})

describe("tied embeddings", () => {
  const tied = (architecture: string, norm: string): boolean => {
    const path = inFolder("norms.gguf")
    writeGguf(path, {
      metadata: [["general.architecture", { type: "string", value: architecture }]],
      tensors: ["token_embd.weight", norm].map((name) => constantTensor(name, "F32", [8], 0)),
    })
    return layerBytes(readGguf(path)).tiedOutput
  }

  test("decoders have them, encoders do not", () => {
    expect(tied("t5", "dec.output_norm.weight")).toBe(true)
    expect(tied("lfm2", "token_embd_norm.weight")).toBe(true)
    expect(tied("t5encoder", "enc.output_norm.weight")).toBe(false)
    expect(tied("bert", "token_embd_norm.weight")).toBe(false)
  })
})

describe("split models", () => {
  const part = (index: number, count: number, tensor: string, extra = 0): GgufToWrite => ({
    metadata: [
      ["split.no", { type: "uint16", value: index }],
      ["split.count", { type: "uint16", value: count }],
      ["split.tensors.count", { type: "int32", value: count + extra }],
    ],
    tensors: [constantTensor(tensor, "F32", [8], index)],
  })
  const name = (prefix: string, index: number) => inFolder(`${prefix}-0000${index}-of-00003.gguf`)
  const writeParts = (prefix: string, extra = 0) => {
    for (const index of [0, 1, 2]) {
      writeGguf(name(prefix, index + 1), part(index, 3, `blk.${index}.x`, extra))
    }
  }

  test("the parts are found beside the first", () => {
    writeParts("whole")
    const gguf = readGguf(name("whole", 1))
    expect(gguf.parts.map((one) => one.path)).toEqual([1, 2, 3].map((n) => name("whole", n)))
    expect(gguf.tensors.map((tensor) => [tensor.name, tensor.part])).toEqual([
      ["blk.0.x", 0],
      ["blk.1.x", 1],
      ["blk.2.x", 2],
    ])
    expect(layerBytes(gguf).layers).toEqual([32, 32, 32])
  })

  test("a missing part is named", () => {
    writeParts("gap")
    rmSync(name("gap", 2))
    const error = errorOf(() => readGguf(name("gap", 1)))
    expect(error.reason).toBe("missing")
    expect(error.path).toBe(name("gap", 2))
    expect(error.message).toContain("part 2 of 3")
  })

  test("a later part is refused with the name of the first", () => {
    writeParts("later")
    const error = errorOf(() => readGguf(name("later", 3)))
    expect(error.reason).toBe("not-first-part")
    expect(error.message).toContain(name("later", 1))
  })

  test("parts that do not belong together", () => {
    writeParts("count", 1)
    expect(errorOf(() => readGguf(name("count", 1))).message).toContain("4 tensors are announced")
    writeParts("order")
    writeGguf(name("order", 2), part(2, 3, "blk.7.x"))
    expect(errorOf(() => readGguf(name("order", 1))).message).toContain("is not part 2")
    writeParts("twice")
    writeGguf(name("twice", 2), part(1, 3, "blk.0.x"))
    expect(errorOf(() => readGguf(name("twice", 1))).message).toContain('"blk.0.x" appears twice')
  })

  test("a first part whose name does not lead to the others", () => {
    const path = inFolder("renamed.gguf")
    writeGguf(path, part(0, 3, "blk.0.x"))
    expect(errorOf(() => readGguf(path)).message).toContain("-00001-of-00003.gguf")
  })
})

describe("files that cannot be used", () => {
  test("no file, a directory, a named pipe", () => {
    expect(errorOf(() => readGguf(inFolder("nowhere.gguf"))).reason).toBe("missing")
    expect(errorOf(() => readGguf(join(folder, "nowhere", "x.gguf"))).reason).toBe("missing")
    const error = errorOf(() => readGguf(folder))
    expect(error.reason).toBe("unreadable")
    expect(error.message).toContain("is a directory")
    execFileSync("mkfifo", [inFolder("pipe")])
    expect(errorOf(() => readGguf(inFolder("pipe"))).reason).toBe("unreadable")
  })

  test("not GGUF", () => {
    const path = writeBytes("text.gguf", new TextEncoder().encode("PK\x03\x04 something"))
    expect(errorOf(() => readGguf(path))).toMatchObject({ reason: "not-gguf", path })
    const html = writeBytes("page.gguf", new TextEncoder().encode("<!doctype html>"))
    expect(errorOf(() => readGguf(html)).message).toContain('starts with "<!do"')
    const empty = writeBytes("empty.gguf", new Uint8Array(0))
    expect(errorOf(() => readGguf(empty)).reason).toBe("not-gguf")
  })

  test("versions", () => {
    const path = writeBytes("v1.gguf", header(1, 0n, 0n))
    expect(errorOf(() => readGguf(path)).reason).toBe("unsupported-version")
    const newer = writeBytes("v4.gguf", header(4, 0n, 0n))
    expect(errorOf(() => readGguf(newer)).message).toContain("update ggml-rpc")
    const big = writeBytes("big.gguf", header(0x03000000, 0n, 0n))
    expect(errorOf(() => readGguf(big)).message).toContain("big-endian")
    expect(readGguf(writeBytes("v2.gguf", header(2, 0n, 0n))).version).toBe(2)
  })

  test("missing tensor data is counted exactly", () => {
    const bytes = sampleBytes()
    const path = writeBytes("short.gguf", bytes)
    truncateSync(path, bytes.length - 1000)
    const error = errorOf(() => readGguf(path))
    expect(error.reason).toBe("truncated")
    // The last tensor is 32 bytes, a whole alignment unit: no padding follows it.
    expect(error.message).toContain(`1000 of ${bytes.length} bytes are missing`)
  })

  test("cut anywhere, the error is typed and never 'fine'", () => {
    const bytes = sampleBytes()
    for (let length = 4; length < bytes.length; length += 7) {
      const path = writeBytes("cut.gguf", bytes.subarray(0, length))
      expect(errorOf(() => readGguf(path)).reason).toBe("truncated")
    }
  })

  test.each<[string, Uint8Array, string]>([
    ["2^60 tensors", header(3, 2n ** 60n, 0n), "tensor count"],
    ["2^63 keys", header(3, 0n, 2n ** 63n), "metadata count"],
    ["an empty key", header(3, 0n, 1n, [...text(""), ...u32(0), 1, 0]), "key 0 is empty"],
    [
      "a key twice",
      header(3, 0n, 2n, [...text("k"), ...u32(0), 1, ...text("k"), ...u32(0), 1]),
      "appears twice",
    ],
    ["an unknown value type", header(3, 0n, 1n, [...text("k"), ...u32(13), 1]), "value type 13"],
    [
      "an array of arrays",
      header(3, 0n, 1n, [...text("k"), ...u32(9), ...u32(9), ...u64(0n)]),
      "array of arrays",
    ],
    [
      "an alignment of 3",
      header(3, 0n, 1n, [...text("general.alignment"), ...u32(4), ...u32(3)]),
      "power of two",
    ],
    [
      "five dimensions",
      header(3, 1n, 0n, [...text("t"), ...u32(5), ...u64(1n), ...u64(1n)]),
      "5 dimensions",
    ],
    [
      "a removed type",
      header(3, 1n, 0n, [...text("t"), ...u32(1), ...u64(32n), ...u32(4), ...u64(0n)]),
      "unknown type 4",
    ],
    [
      "a type that is none",
      header(3, 1n, 0n, [...text("t"), ...u32(1), ...u64(32n), ...u32(4000), ...u64(0n)]),
      "unknown type 4000",
    ],
    [
      "a row of half a block",
      header(3, 1n, 0n, [...text("t"), ...u32(1), ...u64(16n), ...u32(8), ...u64(0n)]),
      "impossible for type Q8_0",
    ],
    [
      "more elements than numbers can count",
      header(3, 1n, 0n, [
        ...[...text("t"), ...u32(2), ...u64(2n ** 40n), ...u64(2n ** 40n), ...u32(0), ...u64(0n)],
      ]),
      "impossible",
    ],
    [
      "data that does not start at 0",
      header(3, 1n, 0n, [...text("t"), ...u32(1), ...u64(1n), ...u32(0), ...u64(32n)]),
      "start at 32 instead of 0",
    ],
    [
      "a name of 64 bytes",
      header(3, 1n, 0n, [
        ...[...text("n".repeat(64)), ...u32(1), ...u64(1n), ...u32(0), ...u64(0n)],
      ]),
      "64 bytes long",
    ],
  ])("%s", (_, bytes, message) => {
    const error = errorOf(() => readGguf(writeBytes("bad.gguf", bytes)))
    expect(error.reason).toBe("malformed")
    expect(error.message).toContain(message)
  })

  test.each<[string, Uint8Array]>([
    ["a string of 2^40 bytes", header(3, 0n, 1n, [...u64(2n ** 40n), 1, 2, 3, 4, 5, 6])],
    [
      "an array of 2^29 strings",
      header(3, 0n, 1n, [...text("k"), ...u32(9), ...u32(8), ...u64(2n ** 29n)]),
    ],
  ])("%s takes no memory: the file is too short for it", (_, bytes) => {
    expect(errorOf(() => readGguf(writeBytes("huge.gguf", bytes))).reason).toBe("truncated")
  })
})

describe("hostile bytes", () => {
  const readOrGgufError = (bytes: Uint8Array) => {
    const path = writeBytes("hostile.gguf", bytes)
    try {
      const gguf = readGguf(path, { arrayLimit: 4 })
      layerBytes(gguf)
      for (const key of gguf.metadata.keys()) readGgufArray(gguf, key)
    } catch (error) {
      if (!(error instanceof GgufError)) throw error
    }
  }

  test("arbitrary bytes after the magic", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (rest) => {
        readOrGgufError(Uint8Array.of(0x47, 0x47, 0x55, 0x46, 3, 0, 0, 0, ...rest))
      }),
      { numRuns: 1000 },
    )
  })

  test("a whole file with bytes changed", () => {
    const bytes = sampleBytes()
    const change = fc.tuple(fc.nat(bytes.length - 1), fc.nat(255))
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        const hostile = bytes.slice()
        for (const [at, value] of changes) hostile[at] = value
        readOrGgufError(hostile)
      }),
      { numRuns: 1000 },
    )
  })
})

describe("writing", () => {
  test("leaves nothing behind when a tensor's producer fails", () => {
    const path = inFolder("failed.gguf")
    const broken = () => {
      throw new Error("no data")
    }
    const tensors = [{ name: "t", type: "F32", ne: [8], fill: broken }]
    expect(() => writeGguf(path, { metadata: [], tensors })).toThrow("no data")
    expect(readdirSync(folder).filter((name) => name.startsWith("failed"))).toEqual([])
  })

  test("says why a path cannot be written", () => {
    writeFileSync(inFolder("occupied"), "")
    const error = errorOf(() => writeGguf(inFolder("occupied/x.gguf"), sample))
    expect(error.reason).toBe("unwritable")
    expect(error.message).toContain("cannot be written")
  })

  test("refuses tensors that cannot exist", () => {
    for (const [type, ne] of [
      ["Q8_0", [16]],
      ["F7", [16]],
      ["F32", []],
      ["F32", [1, 2, 3, 4, 5]],
      ["F32", [0]],
    ] as const) {
      const tensors = [{ name: "t", type, ne, fill: () => undefined }]
      const error = errorOf(() => writeGguf(inFolder("never.gguf"), { metadata: [], tensors }))
      expect(error.reason).toBe("malformed")
    }
  })
})

describe("an outline", () => {
  const words = Array.from({ length: 2000 }, (_, index) => `word ${index}`)
  const model = (entries: GgufToWrite["metadata"] = []): GgufToWrite => ({
    metadata: [
      ["general.architecture", { type: "string", value: "llama" }],
      ["general.alignment", { type: "uint32", value: 32 }],
      ["tokenizer.ggml.model", { type: "string", value: "gpt2" }],
      ["tokenizer.ggml.tokens", { type: "array", elementType: "string", values: words }],
      ["tokenizer.ggml.merges", { type: "array", elementType: "string", values: ["a b"] }],
      ...entries,
    ],
    tensors: [filled("a", "Q4_0", [64, 3]), filled("b", "F32", [5]), filled("c", "F16", [2, 3, 4])],
  })
  const outlined = (gguf: GgufToWrite, arrayLimit = 1024) => {
    const path = inFolder("outlined.gguf")
    writeGguf(path, gguf)
    const outline = inFolder("outline.gguf")
    rmSync(outline, { force: true })
    return saveGgufOutline(readGguf(path, { arrayLimit }), outline) ? readGguf(outline) : undefined
  }

  test("has the same tensors and no vocabulary but its size", () => {
    const outline = outlined(model())!
    const { tensors } = readGguf(inFolder("outlined.gguf"))
    expect(outline.tensors).toEqual(tensors)
    expect(Object.fromEntries(outline.metadata)).toEqual({
      "general.architecture": { type: "string", value: "llama" },
      "tokenizer.ggml.model": { type: "string", value: "no_vocab" },
      "llama.vocab_size": { type: "uint32", value: words.length },
    })
  })

  test.each<[string, number, GgufToWrite]>([
    ["a short vocabulary", 2000, model()],
    [
      "another size than its vocabulary's",
      1024,
      model([["llama.vocab_size", { type: "uint32", value: 1999 }]]),
    ],
    [
      "a size that is no number",
      1024,
      model([["llama.vocab_size", { type: "string", value: "2000" }]]),
    ],
    [
      "another long array",
      1024,
      model([["a.list", { type: "array", elementType: "string", values: words }]]),
    ],
    ["no architecture", 1024, { ...model(), metadata: model().metadata.slice(1) }],
  ])("is not made of a model with %s", (_, arrayLimit, gguf) => {
    expect(outlined(gguf, arrayLimit)).toBeUndefined()
  })
})

test("passes over strings of any length, wherever the reading stops between", () => {
  const path = inFolder("strings.gguf")
  const lengths = [0, 1, 255, 256, 65_535, 65_536, 65_537, 3, 200_000, 0, 0, 7]
  const values = [...lengths, ...Array.from({ length: 20_000 }, (_, at) => at % 11)].map((length) =>
    "x".repeat(length),
  )
  writeGguf(path, {
    metadata: [
      ["a.list", { type: "array", elementType: "string", values }],
      ["a.end", { type: "uint32", value: 77 }],
    ],
    tensors: [],
  })
  expect(ggufInteger(readGguf(path, { arrayLimit: 0 }), "a.end")).toBe(77)
})
