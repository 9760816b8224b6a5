/**
 * The llama architecture in plain TypeScript, for tests: what the demo model computes, read from the
 * file, without ggml. One sequence, one token at a time. Facts of the graph: llama.cpp v0.5.0
 * src/models/llama.cpp; rotary embedding over neighbouring pairs, base 10000.
 */
import { readFileSync } from "node:fs"
import { type GgufFile, ggufInteger, readGguf } from "@ggml-rpc/gguf"

const ROPE_BASE = 10_000
const NORM_EPSILON = 1e-5

interface Layer {
  readonly attnNorm: Float32Array
  readonly query: Float32Array
  readonly key: Float32Array
  readonly value: Float32Array
  readonly attnOutput: Float32Array
  readonly ffnNorm: Float32Array
  readonly gate: Float32Array
  readonly up: Float32Array
  readonly down: Float32Array
}

export interface ReferenceModel {
  readonly dim: number
  readonly headDim: number
  readonly embeddings: Float32Array
  readonly layers: readonly Layer[]
  readonly outputNorm: Float32Array
  readonly output: Float32Array
}

export const loadReference = (path: string): ReferenceModel => {
  const gguf = readGguf(path)
  const file = readFileSync(path)
  const read = (name: string) => floats(gguf, file, name)
  const layers = Array.from({ length: ggufInteger(gguf, "llama.block_count")! }, (_, index) => {
    const of = (name: string) => read(`blk.${index}.${name}.weight`)
    return {
      attnNorm: of("attn_norm"),
      query: of("attn_q"),
      key: of("attn_k"),
      value: of("attn_v"),
      attnOutput: of("attn_output"),
      ffnNorm: of("ffn_norm"),
      gate: of("ffn_gate"),
      up: of("ffn_up"),
      down: of("ffn_down"),
    }
  })
  return {
    dim: ggufInteger(gguf, "llama.embedding_length")!,
    headDim: ggufInteger(gguf, "llama.rope.dimension_count")!,
    embeddings: read("token_embd.weight"),
    layers,
    outputNorm: read("output_norm.weight"),
    output: read("output.weight"),
  }
}

const floats = (gguf: GgufFile, file: Buffer, name: string): Float32Array => {
  const tensor = gguf.tensors.find((one) => one.name === name)!
  const at = file.byteOffset + gguf.parts[0]!.dataOffsetBytes + tensor.offsetBytes
  const bytes = file.buffer.slice(at, at + tensor.sizeBytes)
  if (tensor.typeName === "F16") return Float32Array.from(new Float16Array(bytes))
  return new Float32Array(bytes)
}

/**
 * Evaluates tokens one after the other; returns the logits after each. `layerScale[i]` multiplies
 * what layer i adds: 0 leaves the layer out.
 */
export const makeReference = (
  model: ReferenceModel,
  layerScale: readonly number[] = model.layers.map(() => 1),
): ((token: number) => Float32Array) => {
  const caches = model.layers.map(() => ({ keys: [], values: [] }))
  let position = 0
  return (token) => {
    const hidden = model.embeddings.slice(token * model.dim, (token + 1) * model.dim)
    for (const [index, layer] of model.layers.entries()) {
      const scale = layerScale[index]!
      const attended = attention(
        model,
        layer,
        caches[index]!,
        norm(hidden, layer.attnNorm),
        position,
      )
      addScaled(hidden, multiply(layer.attnOutput, attended), scale)
      addScaled(hidden, feedForward(layer, norm(hidden, layer.ffnNorm)), scale)
    }
    position++
    return multiply(model.output, norm(hidden, model.outputNorm))
  }
}

interface LayerCache {
  readonly keys: Float32Array[]
  readonly values: Float32Array[]
}

/** Causal attention of all query heads over the one key and value head. */
const attention = (
  model: ReferenceModel,
  layer: Layer,
  cache: LayerCache,
  input: Float32Array,
  position: number,
): Float32Array => {
  cache.keys.push(rotate(multiply(layer.key, input), position))
  cache.values.push(multiply(layer.value, input))
  const query = multiply(layer.query, input)
  const result = new Float32Array(query.length)
  for (let from = 0; from < query.length; from += model.headDim) {
    const head = rotate(query.slice(from, from + model.headDim), position)
    const weights = softmax(cache.keys.map((key) => dot(head, key) / Math.sqrt(model.headDim)))
    const out = result.subarray(from, from + model.headDim)
    for (const [index, weight] of weights.entries()) addScaled(out, cache.values[index]!, weight)
  }
  return result
}

const feedForward = (layer: Layer, input: Float32Array): Float32Array => {
  const up = multiply(layer.up, input)
  const gated = multiply(layer.gate, input).map((x, i) => (x / (1 + Math.exp(-x))) * up[i]!)
  return multiply(layer.down, gated)
}

const rotate = (head: Float32Array, position: number): Float32Array => {
  const rotated = new Float32Array(head.length)
  for (let i = 0; i < head.length; i += 2) {
    const angle = position * ROPE_BASE ** (-i / head.length)
    rotated[i] = head[i]! * Math.cos(angle) - head[i + 1]! * Math.sin(angle)
    rotated[i + 1] = head[i]! * Math.sin(angle) + head[i + 1]! * Math.cos(angle)
  }
  return rotated
}

const norm = (input: Float32Array, weights: Float32Array): Float32Array => {
  const inverse = 1 / Math.sqrt(dot(input, input) / input.length + NORM_EPSILON)
  return input.map((x, i) => x * inverse * weights[i]!)
}

const softmax = (scores: readonly number[]): readonly number[] => {
  const largest = Math.max(...scores)
  const exponentials = scores.map((score) => Math.exp(score - largest))
  const sum = exponentials.reduce((total, one) => total + one, 0)
  return exponentials.map((one) => one / sum)
}

const dot = (a: Float32Array, b: Float32Array): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

/** Matrix (rows of the vector's length) times vector. */
const multiply = (matrix: Float32Array, vector: Float32Array): Float32Array => {
  const size = vector.length
  const result = new Float32Array(matrix.length / size)
  for (let row = 0, at = 0; row < result.length; row++, at += size) {
    let sum = 0
    for (let i = 0; i < size; i++) sum += matrix[at + i]! * vector[i]!
    result[row] = sum
  }
  return result
}

const addScaled = (target: Float32Array, add: Float32Array, scale: number): void => {
  for (let i = 0; i < target.length; i++) target[i]! += add[i]! * scale
}
