import { ptr } from "bun:ffi"
import { modelFiles, tensorPlaces } from "@ggml-rpc/gguf"
import {
  type Address,
  ggml,
  hashOf,
  io,
  WeightFile,
  type WeightHash,
  WeightHashes,
  type WeightPlace,
} from "@ggml-rpc/native/bindings"
import {
  Command,
  ExtensionCommand,
  extensionCommands,
  MAX_OFFERED_WEIGHTS,
} from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { DeviceState } from "./device.ts"
import type { Exchange } from "./Exchange.ts"
import { putOfferedWeights, putSetTensorHash } from "./requests.ts"

/** Smaller weights cost more to be asked about than to be sent: by one of ours, which takes many questions at once, and others. */
const LEAST_OFFERED_BYTES = { ours: 1024, others: 256 * 1024 } as const

/** What one question offers at most: a server says nothing until it has read all of it, and may be taken for lost. */
const OFFER_BYTES = 256 * 1024 * 1024

/** Weights of a server that are hashed to find out whether it has any of the model. */
const SAMPLE_COUNT = 3

/** So much is hashed before the servers are told, and get to work on it. */
const HASHED_BYTES = 64 * 1024 * 1024

/** A weight of at most this size is hashed before what was remembered is believed. */
const CHECKED_BYTES = 4 * 1024 * 1024

/** A weight that has a place on a server and no data yet. */
export interface ComingWeight {
  /** The tensor's id, as in its record. */
  readonly id: number
  readonly name: string
  readonly sizeBytes: number
  readonly connection: RpcConnection
  /** Encoded as the protocol's tensor. */
  readonly record: Uint8Array
}

/** A weight whose server was asked for it. */
interface Offer {
  readonly connection: RpcConnection
  readonly sizeBytes: number
  /** Of the answer. */
  readonly ticket: number
  /** Where the answer says 1 when the server had it. */
  readonly answers: Uint8Array
  readonly at: number
}

/**
 * How weights reach their servers: counts them, and asks each server for all that it may have, before the first is sent and
 * without waiting. A weight is sent when its turn comes and the answer is no.
 */
export class WeightUpload {
  /** Bytes of weights that need not be sent any more: sent, or found at a server. */
  doneBytes = 0
  /** Of those, bytes that a server had. */
  cachedBytes = 0
  /** Called after each weight; the engine reports progress from it. */
  onWeight: (() => void) | undefined
  private readonly exchange: Exchange
  private readonly coming: () => readonly ComingWeight[]
  private readonly withoutCache = new Set<RpcConnection>()
  private readonly offers = new Map<number, Offer>()
  /** Of the model that is loaded; undefined while none is. */
  private path: string | undefined
  private isPlanned = false
  private hashes: WeightHashes | undefined
  /** Tensors that are not as they lie in the model's file. */
  private readonly cut = new Set<number>()
  /** Servers that lacked a part of one in this load. */
  private readonly lacking = new Set<RpcConnection>()
  /** Names of weights that might be offered, and that nobody has hashed. */
  private readonly unhashed = new Set<string>()

  /** `coming` gives weights that have places and no data yet, in the order in which libllama sets them. */
  constructor(exchange: Exchange, coming: () => readonly ComingWeight[]) {
    this.exchange = exchange
    this.coming = coming
  }

  /** The server of this connection has no cache. */
  expectNoCache(connection: RpcConnection): void {
    this.withoutCache.add(connection)
  }

  /** The load of a model begins. */
  begin(path: string): void {
    this.end(false)
    io().io_stop_hashing()
    this.path = path
    this.isPlanned = false
  }

  /** It is over. `hashesBeside`, of a model that is there: what its weights hash to is found out while nobody waits, for the next time. */
  end(hashesBeside: boolean): void {
    const { path, hashes } = this
    const names = new Set(hashesBeside ? this.unhashed : [])
    this.path = undefined
    this.hashes = undefined
    // Of a load that ended before its time: the answers have places that nobody may take from them.
    for (const { connection, ticket } of this.offers.values()) connection.drainTo(ticket)
    this.offers.clear()
    this.unhashed.clear()
    this.cut.clear()
    this.lacking.clear()
    if (path === undefined || hashes === undefined || names.size === 0) return
    const places = [...tensorPlaces(path)].filter(([name]) => names.has(name))
    const file = WeightFile.open(hashes)
    if (file === undefined) return
    file.hashBeside(new Map(places), hashes)
  }

  /** Whether a weight of this size is worth a place in a cache. */
  isCacheable(connection: RpcConnection, sizeBytes: number): boolean {
    const { features } = connection.dialect
    return features.setTensorCacheFlag
      ? sizeBytes >= leastOffered(connection)
      : sizeBytes > features.hashThresholdBytes
  }

  /** Whether the server has this data of the exchange block's tensor, so that nothing is left to send. */
  isThere(connection: RpcConnection, data: Address, offset: number, sizeBytes: number): boolean {
    if (!this.isPlanned) this.plan()
    const id = this.exchange.tensorId
    const offer = this.offers.get(id)
    // Waits, whatever is asked: while the answer is on its way its place must not go.
    const hasWhole = offer !== undefined && isHit(offer)
    this.offers.delete(id)
    const isWhole = offset === 0 && offer?.sizeBytes === sizeBytes
    if (isWhole ? !hasWhole : !this.askForPart(connection, data, offset, sizeBytes)) return false
    this.cachedBytes += sizeBytes
    this.done(sizeBytes)
    return true
  }

  /** Of a tensor that is cut over servers only this much is known, and now: asks until the server lacks one. */
  private askForPart(
    connection: RpcConnection,
    data: Address,
    offset: number,
    sizeBytes: number,
  ): boolean {
    if (!this.cut.has(this.exchange.tensorId) || this.lacking.has(connection)) return false
    if (sizeBytes <= connection.dialect.features.hashThresholdBytes) return false
    const [low, high] = hashOf(data, sizeBytes)
    putSetTensorHash(connection, this.exchange.tensor, { low, high }, offset)
    const isHit = connection.roundTrip(Command.SET_TENSOR_HASH, 1)?.[0] === 1
    if (!isHit) this.lacking.add(connection)
    return isHit
  }

  done(sizeBytes: number): void {
    this.doneBytes += sizeBytes
    this.onWeight?.()
  }

  /** Before the first weight: all places are known then. */
  private plan(): void {
    this.isPlanned = true
    const { path } = this
    if (path === undefined) return
    const coming = this.coming().filter(
      ({ connection, sizeBytes }) =>
        !this.withoutCache.has(connection) && this.isCacheable(connection, sizeBytes),
    )
    if (coming.length === 0) return
    const hashes = WeightHashes.open(modelFiles(path))
    this.hashes = hashes
    if (hashes.all().size > 0 && !isTrue(hashes)) hashes.forget()
    const known = coming.flatMap((weight) => {
      const hash = hashes.find(weight.name, weight.sizeBytes)
      return hash === undefined ? [] : [{ weight, hash }]
    })
    this.offer(known)
    const rest = coming.filter(({ name, sizeBytes }) => !hashes.find(name, sizeBytes))
    if (rest.length > 0) this.offerUnknown(path, hashes, rest)
  }

  /** Asks for weights of which the hash is known; nobody waits for the answers. */
  private offer(weights: readonly { weight: ComingWeight; hash: WeightHash }[]): void {
    const byConnection = Map.groupBy(weights, ({ weight }) => weight.connection)
    for (const [connection, own] of byConnection) {
      if (connection.failure !== undefined) continue
      if (connection.level >= extensionCommands.OFFER_WEIGHTS.level) this.offerMany(connection, own)
      else for (const one of own) this.offerOne(connection, one)
    }
    for (const connection of byConnection.keys()) connection.flush()
  }

  private offerMany(
    connection: RpcConnection,
    weights: readonly { weight: ComingWeight; hash: WeightHash }[],
  ): void {
    for (let first = 0; first < weights.length; ) {
      let bytes = 0
      let end = first
      while (end < weights.length && end - first < MAX_OFFERED_WEIGHTS && bytes < OFFER_BYTES) {
        bytes += weights[end++]!.weight.sizeBytes
      }
      const some = weights.slice(first, end)
      putOfferedWeights(connection, some)
      const answers = new Uint8Array(some.length)
      const { OFFER_WEIGHTS } = ExtensionCommand
      const ticket = connection.expect(ptr(answers) as Address, answers.length, OFFER_WEIGHTS)
      for (const [at, { weight }] of some.entries()) {
        const { id, sizeBytes } = weight
        this.offers.set(id, { connection, sizeBytes, ticket, answers, at })
      }
      first = end
    }
  }

  private offerOne(
    connection: RpcConnection,
    { weight, hash }: { weight: ComingWeight; hash: WeightHash },
  ): void {
    const { id, sizeBytes } = weight
    putSetTensorHash(connection, weight.record, hash)
    const answers = new Uint8Array(1)
    const ticket = connection.expect(ptr(answers) as Address, 1, Command.SET_TENSOR_HASH)
    this.offers.set(id, { connection, sizeBytes, ticket, answers, at: 0 })
  }

  /** Asks for a few of each server's, and where it has one of them for the rest. */
  private offerUnknown(path: string, hashes: WeightHashes, rest: readonly ComingWeight[]): void {
    for (const { name } of rest) this.unhashed.add(name)
    const places = tensorPlaces(path)
    const file = WeightFile.open(hashes)
    if (file === undefined) return
    try {
      for (const { id, name, sizeBytes } of rest) {
        if (places.get(name)?.sizeBytes === sizeBytes) continue
        this.cut.add(id)
        this.unhashed.delete(name)
      }
      const findable = rest.filter(
        ({ name, sizeBytes }) => places.get(name)?.sizeBytes === sizeBytes,
      )
      const sampled = [...Map.groupBy(findable, ({ connection }) => connection).values()].flatMap(
        sampleOf,
      )
      if (!this.hashAndOffer(file, hashes, places, sampled)) return
      const known = new Set<RpcConnection>()
      for (const { id, connection } of sampled) {
        const offer = this.offers.get(id)
        if (offer !== undefined && isHit(offer)) known.add(connection)
      }
      const left = findable.filter(
        (weight) => known.has(weight.connection) && !sampled.includes(weight),
      )
      for (let first = 0; first < left.length && io().io_abort_requested() === 0; ) {
        let bytes = 0
        let end = first
        while (end < left.length && bytes < HASHED_BYTES) bytes += left[end++]!.sizeBytes
        if (!this.hashAndOffer(file, hashes, places, left.slice(first, end))) return
        first = end
      }
    } finally {
      file.close()
    }
  }

  /** False when the file cannot be read any more. */
  private hashAndOffer(
    file: WeightFile,
    hashes: WeightHashes,
    places: ReadonlyMap<string, WeightPlace>,
    weights: readonly ComingWeight[],
  ): boolean {
    const found = file.hash(weights.map(({ name }) => places.get(name)!))
    if (found === undefined) return false
    hashes.add(weights.map(({ name }, index) => [name, found[index]!]))
    for (const { name } of weights) this.unhashed.delete(name)
    this.offer(weights.map((weight, index) => ({ weight, hash: found[index]! })))
    return true
  }
}

/** What the shim knows of; see `WeightUpload`. */
export const comingWeights = (
  exchange: Exchange,
  states: ReadonlyArray<DeviceState>,
): readonly ComingWeight[] =>
  Array.from({ length: ggml().gs_remote_coming_weights() }, (_, index) => {
    const { connection } = states[ggml().gs_remote_coming_weight(index)]!
    const { otherId: id, otherName: name, size: sizeBytes } = exchange
    return { id, name, sizeBytes, connection, record: exchange.other.slice() }
  })

const leastOffered = ({ level }: RpcConnection): number =>
  level >= extensionCommands.OFFER_WEIGHTS.level
    ? LEAST_OFFERED_BYTES.ours
    : LEAST_OFFERED_BYTES.others

/** Waits for the answer. */
const isHit = ({ connection, ticket, answers, at }: Offer): boolean => {
  connection.drainTo(ticket)
  return connection.failure === undefined && answers[at] === 1
}

/**
 * The smallest ones of those that every kind of client and server keeps in caches; of a model without such weights, the largest.
 */
const sampleOf = (weights: readonly ComingWeight[]): readonly ComingWeight[] => {
  const rising = [...weights].sort((a, b) => a.sizeBytes - b.sizeBytes)
  const { hashThresholdBytes } = weights[0]!.connection.dialect.features
  const large = rising.filter(({ sizeBytes }) => sizeBytes > hashThresholdBytes)
  return large.length > 0 ? large.slice(0, SAMPLE_COUNT) : rising.slice(-SAMPLE_COUNT)
}

/** Looks at one weight of what was remembered, another one each time. */
const isTrue = (hashes: WeightHashes): boolean => {
  const small = [...hashes.all().values()].filter(({ sizeBytes }) => sizeBytes <= CHECKED_BYTES)
  const checked = small[Math.floor(Math.random() * small.length)]
  if (checked === undefined) return true
  const file = WeightFile.open(hashes)
  const found = file?.hash([checked])?.[0]
  file?.close()
  return found?.high === checked.high && found.low === checked.low
}
