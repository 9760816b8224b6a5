/** Weights that a client offers by their hashes: what the cache has, or a model of this machine, goes into the tensor without crossing the network. */
import { asPointer } from "@ggml-rpc/native/bindings"
import { SetTensorHashRequest } from "@ggml-rpc/protocol"
import type { CachedFile } from "../../cache/Cache.ts"
import { answerResult } from "../answers.ts"
import { refuse } from "../errors.ts"
import { readU64 } from "../graph/tensorWords.ts"
import { type SessionState, STAGING_BYTES } from "../SessionState.ts"

/** Files whose bytes are hashed together, after they are in their tensors: several at once take a quarter of the time. */
const HASHED_TOGETHER = 16

/** A file that lies in a tensor, and whose bytes are not known to be what its name says. */
interface Unproven {
  readonly file: CachedFile
  readonly address: number
  readonly index: number
}

export const setTensorHash = (state: SessionState): void => {
  const [result] = new Offers(state, 1).take()
  answerResult(state.wire, result!)
}

/** OFFER_WEIGHTS: the same for many; see `extensionCommands`. */
export const offerWeights = (state: SessionState): void => {
  const { wire } = state
  const { size } = SetTensorHashRequest
  if (wire.sizeBytes % size !== 0) {
    refuse("payload_size", `must be a multiple of ${size}`, wire.sizeBytes)
  }
  const offers = new Offers(state, wire.sizeBytes / size)
  const results = offers.take(() => wire.take(wire.requestAddress, size))
  const at = wire.answer(results.length)
  for (const [index, result] of results.entries()) wire.out.setUint8(at + index, result)
}

/** Requests one after the other, each in the place of the wire's current one. */
class Offers {
  readonly #state: SessionState
  /** 1 for each whose bytes are in its tensor. */
  readonly #results: Uint8Array
  readonly #unproven: Unproven[] = []

  constructor(state: SessionState, count: number) {
    this.#state = state
    this.#results = new Uint8Array(count)
  }

  /** `next` gets the next request. */
  take(next: () => void = () => {}): Uint8Array {
    const { stats } = this.#state.wire
    try {
      for (let index = 0; index < this.#results.length; index++) {
        next()
        this.#takeOne(index)
        if (this.#unproven.length === HASHED_TOGETHER) this.#prove()
      }
      this.#prove()
    } finally {
      for (const { file } of this.#unproven) file.close()
    }
    for (const result of this.#results) {
      if (result === 1) stats.cacheHits++
      else stats.cacheMisses++
    }
    return this.#results
  }

  #takeOne(index: number): void {
    const { cache, models, spoken, wire } = this.#state
    const hash = spoken.offsets.setTensorHash.hash / 4
    const [low, high] = [wire.words[hash]!, wire.words[hash + 1]!]
    const file = models?.open(high, low) ?? cache?.open(high, low)
    if (file === undefined) return
    let isKept = false
    try {
      const address = this.#load(file)
      if (address === undefined) return
      if (address === PROVEN || file.isVerified) {
        file.confirm()
        this.#results[index] = 1
      } else {
        isKept = true
        this.#unproven.push({ file, address, index })
      }
    } finally {
      if (!isKept) file.close()
    }
  }

  /**
   * Puts the file's bytes into the tensor. Where they lie now, for who has to look at them still; undefined when they do not, and
   * the client sends them.
   */
  #load(file: CachedFile): number | typeof PROVEN | undefined {
    const { wire, tensor, ggml, spoken } = this.#state
    const offsets = spoken.offsets.setTensorHash
    const buffer = this.#state.takeTensor(offsets.tensor, "tensor", "required")!
    const offset = readU64(wire.words, offsets.offsetBytes / 4)
    tensor.checkRange(offset, 0, "offset", "size")
    // A client may offer a piece, whose size nobody tells. A larger file is damaged, or of other data that a hash of 64 bits does not
    // tell apart.
    if (file.sizeBytes > tensor.sizeBytes - offset) return undefined
    if (buffer.isHost) {
      const start = buffer.nativeBase + tensor.dataOffsetBytes + offset
      return file.fill(start, buffer.isOwn) ? start : undefined
    }
    const staging = this.#state.stagingAddress()
    const record = asPointer(wire.requestAddress + offsets.tensor)
    const isRight = file.fillPieces(
      STAGING_BYTES,
      () => staging,
      (done, part) => ggml.gs_tensor_set(record, asPointer(staging), offset + done, part),
    )
    return isRight ? PROVEN : undefined
  }

  #prove(): void {
    const unproven = this.#unproven.splice(0)
    if (unproven.length === 0) return
    const words = new Uint32Array(2 * unproven.length)
    this.#state.io.io_hash(
      unproven.length,
      Float64Array.from(unproven, ({ address }) => address),
      Float64Array.from(unproven, ({ file }) => file.sizeBytes),
      words,
    )
    for (const [place, { file, index }] of unproven.entries()) {
      if (words[2 * place] === file.low && words[2 * place + 1] === file.high) {
        file.confirm()
        this.#results[index] = 1
      }
      file.close()
    }
  }
}

/** Looked at on the way into memory that the host cannot read. */
const PROVEN = "proven"
