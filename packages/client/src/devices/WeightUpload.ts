import { ptr } from "bun:ffi"
import { modelFiles, type TensorPlace, tensorPlaces } from "@ggml-rpc/gguf"
import {
  type Address,
  ggml,
  io,
  WeightFile,
  type WeightHash,
  WeightHashes,
  type WeightPlace,
  type WeightSlice,
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
import { axisOf, type Division, divisionOf, isSameSlice, sliceOf, slicesOf } from "./slices.ts"

/**
 * Smaller weights cost more to be asked about than to be sent: by one of ours, which takes many questions at once, and others. The latter
 * goes for pieces as well, where a device gets several of a weight.
 */
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

/** What libllama sets of a tensor from `offset` on: rows, of `sizeBytes` together. */
export interface TensorData {
  readonly address: Address
  readonly offset: number
  readonly sizeBytes: number
  readonly rowBytes: number
  /** From the start of one row to that of the next. */
  readonly strideBytes: number
}

/** One of the model. */
interface ModelWeight extends ComingWeight {
  readonly division: Division
  /** Where other devices get a weight of this name: what it is of that one, by the axis of the cut. */
  readonly slices: readonly WeightSlice[]
}

/** What a server is asked for: a weight, or, where others get a weight of this name, a slice of it, which may be all. */
interface Piece {
  readonly name: string
  readonly sizeBytes: number
  readonly slice: WeightSlice | undefined
}

interface Placed {
  readonly weight: ModelWeight
  readonly place: WeightPlace
}

interface Hashed {
  readonly weight: ModelWeight
  readonly hash: WeightHash
}

/** A weight whose server was asked for it. */
interface Offer {
  readonly connection: RpcConnection
  readonly sizeBytes: number
  /** Undefined: the whole weight. */
  readonly slice: WeightSlice | undefined
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
  private isCut = false
  private isPlanned = false
  private hashes: WeightHashes | undefined
  /** By their ids. */
  private readonly weights = new Map<number, ModelWeight>()
  /** What was sent, and nobody has hashed. */
  private readonly unhashed: Piece[] = []
  /** The weight that is set now, and where its data begins: libllama gives parts of it to one device after the other. */
  private readonly current = { name: "", address: 0 }

  /** `coming` gives weights that have places and no data yet, in the order in which libllama sets them. */
  constructor(exchange: Exchange, coming: () => readonly ComingWeight[]) {
    this.exchange = exchange
    this.coming = coming
  }

  /** The server of this connection has no cache. */
  expectNoCache(connection: RpcConnection): void {
    this.withoutCache.add(connection)
  }

  /** The load of a model begins; `isCut`: its tensors are cut over devices. */
  begin(path: string, isCut: boolean): void {
    this.end(false)
    io().io_stop_hashing()
    this.path = path
    this.isCut = isCut
    this.isPlanned = false
  }

  /** It is over. `hashesBeside`, of a model that is there: what its weights hash to is found out while nobody waits, for the next time. */
  end(hashesBeside: boolean): void {
    const { path, hashes } = this
    const pieces = this.unhashed.splice(0)
    this.path = undefined
    this.hashes = undefined
    // Of a load that ended before its time: the answers have places that nobody may take from them.
    for (const { connection, ticket } of this.offers.values()) connection.drainTo(ticket)
    this.offers.clear()
    this.weights.clear()
    this.current.name = ""
    if (!hashesBeside || path === undefined || hashes === undefined || pieces.length === 0) return
    const places = tensorPlaces(path)
    const named = new Map<string, readonly [string, WeightPlace]>()
    for (const piece of pieces) {
      const place = placeOf(piece, places.get(piece.name))
      // One that several devices have is hashed once.
      if (place !== undefined) named.set(JSON.stringify([piece.name, place]), [piece.name, place])
    }
    WeightFile.open(hashes)?.hashBeside([...named.values()], hashes)
  }

  /** Whether so much of the exchange block's tensor is worth a place in a cache. */
  isCacheable(connection: RpcConnection, sizeBytes: number): boolean {
    const weight = this.weights.get(this.exchange.tensorId)
    if (weight?.division === "values") return false
    const isPiece = weight !== undefined && sizeBytes < weight.sizeBytes
    return isOfferable(connection, sizeBytes, isPiece)
  }

  /** Whether the server has this data of the exchange block's tensor, so that nothing is left to send. */
  isThere(data: TensorData): boolean {
    if (!this.isPlanned) this.plan()
    const id = this.exchange.tensorId
    const offer = this.offers.get(id)
    // Waits, whatever is asked: while the answer is on its way its place must not go.
    const hasOffered = offer !== undefined && isHit(offer)
    this.offers.delete(id)
    const weight = this.weights.get(id)
    const piece = weight && this.pieceOf(weight, data)
    if (piece === undefined) return false
    if (!(isOf(offer, piece) ? hasOffered : this.askFor(weight!, data.offset, piece))) return false
    this.cachedBytes += data.sizeBytes
    this.done(data.sizeBytes)
    return true
  }

  /**
   * What the data are of their weight; undefined where that cannot be told. To be asked of every part of a weight, also of those of servers
   * that have no cache: the first one is where its data begins.
   */
  private pieceOf(weight: ModelWeight, data: TensorData): Piece | undefined {
    const { name, division, slices } = weight
    if (division === "values") return undefined
    const { address, offset, sizeBytes, rowBytes, strideBytes } = data
    if (slices[0] === undefined) {
      const isWhole = offset === 0 && sizeBytes === weight.sizeBytes
      return isWhole ? { name, sizeBytes, slice: undefined } : undefined
    }
    if (name !== this.current.name) Object.assign(this.current, { name, address })
    const fromBytes = address - this.current.address
    const { wholeBytes } = slices[0]
    const slice = sliceOf(fromBytes, sizeBytes / rowBytes, strideBytes, wholeBytes)
    return { name, sizeBytes, slice }
  }

  /** Of what was not asked for in time, as a device gets several pieces of a weight: asks now, if its hash is known. */
  private askFor({ connection, record, sizeBytes }: ModelWeight, offset: number, piece: Piece) {
    if (!this.mayHave(connection, piece.sizeBytes, piece.sizeBytes < sizeBytes)) return false
    const hash = this.hashes?.find(piece.name, piece.sizeBytes, piece.slice)
    if (hash === undefined) {
      this.unhashed.push(piece)
      return false
    }
    putSetTensorHash(connection, record, hash, offset)
    return connection.roundTrip(Command.SET_TENSOR_HASH, 1)?.[0] === 1
  }

  /** Whether a server may have data of this size in its cache; `isPiece`: see `isOfferable`. */
  private mayHave(connection: RpcConnection, sizeBytes: number, isPiece: boolean): boolean {
    return !this.withoutCache.has(connection) && isOfferable(connection, sizeBytes, isPiece)
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
    for (const weight of withSlices(this.coming(), this.isCut)) this.weights.set(weight.id, weight)
    const offerable = [...this.weights.values()].filter(
      ({ connection, sizeBytes, division }) =>
        division !== "values" && this.mayHave(connection, sizeBytes, false),
    )
    if (offerable.length === 0) return
    const hashes = WeightHashes.open(modelFiles(path))
    this.hashes = hashes
    if (hashes.all().size > 0 && !isTrue(hashes)) hashes.forget()
    const known: Hashed[] = []
    const rest: ModelWeight[] = []
    for (const weight of offerable) {
      const hash = findHash(hashes, weight)
      if (hash !== undefined) known.push({ weight, hash })
      // Of what comes in segments each has a hash, and is asked for when it is set; where they begin is not known now.
      else if (weight.division === "rows") rest.push(weight)
    }
    this.offer(known)
    if (rest.length > 0) this.offerUnknown(path, hashes, rest)
  }

  /** Asks for weights of which the hash is known; nobody waits for the answers. */
  private offer(weights: readonly Hashed[]): void {
    const byConnection = Map.groupBy(weights, ({ weight }) => weight.connection)
    for (const [connection, own] of byConnection) {
      if (connection.failure !== undefined) continue
      if (connection.level >= extensionCommands.OFFER_WEIGHTS.level) this.offerMany(connection, own)
      else for (const one of own) this.offerOne(connection, one)
    }
    for (const connection of byConnection.keys()) connection.flush()
  }

  private offerMany(connection: RpcConnection, weights: readonly Hashed[]): void {
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
      for (const [at, { weight, hash }] of some.entries()) {
        const { sizeBytes, slice } = hash
        this.offers.set(weight.id, { connection, sizeBytes, slice, ticket, answers, at })
      }
      first = end
    }
  }

  private offerOne(connection: RpcConnection, { weight, hash }: Hashed): void {
    const { sizeBytes, slice } = hash
    putSetTensorHash(connection, weight.record, hash)
    const answers = new Uint8Array(1)
    const ticket = connection.expect(ptr(answers) as Address, 1, Command.SET_TENSOR_HASH)
    this.offers.set(weight.id, { connection, sizeBytes, slice, ticket, answers, at: 0 })
  }

  /** Asks for a few of each server's, and where it has one of them for the rest. */
  private offerUnknown(path: string, hashes: WeightHashes, rest: readonly ModelWeight[]): void {
    const places = tensorPlaces(path)
    const file = WeightFile.open(hashes)
    if (file === undefined) return
    try {
      const findable = rest.flatMap((weight) => {
        const whole = places.get(weight.name)
        const slice = whole && weight.slices[axisOf(weight, whole.ne)]
        const place = placeOf({ ...weight, slice }, whole)
        return place === undefined ? [] : [{ weight, place }]
      })
      const byConnection = Map.groupBy(findable, ({ weight }) => weight.connection)
      const sampled = [...byConnection.values()].flatMap(sampleOf)
      if (!this.hashAndOffer(file, hashes, sampled)) return
      const known = new Set<RpcConnection>()
      for (const { weight } of sampled) {
        const offer = this.offers.get(weight.id)
        if (offer !== undefined && isHit(offer)) known.add(weight.connection)
      }
      const left = findable.filter(
        (placed) => known.has(placed.weight.connection) && !sampled.includes(placed),
      )
      for (let first = 0; first < left.length && io().io_abort_requested() === 0; ) {
        let bytes = 0
        let end = first
        while (end < left.length && bytes < HASHED_BYTES) bytes += left[end++]!.place.sizeBytes
        if (!this.hashAndOffer(file, hashes, left.slice(first, end))) return
        first = end
      }
    } finally {
      file.close()
    }
  }

  /** False when the file cannot be read any more. */
  private hashAndOffer(file: WeightFile, hashes: WeightHashes, placed: readonly Placed[]): boolean {
    const found = file.hash(placed.map(({ place }) => place))
    if (found === undefined) return false
    hashes.add(placed.map(({ weight }, index) => [weight.name, found[index]!]))
    this.offer(placed.map(({ weight }, index) => ({ weight, hash: found[index]! })))
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

/** Whether data of this size may be offered to a server, and kept by it; `isPiece`: there are more of them for the same tensor. */
const isOfferable = (connection: RpcConnection, sizeBytes: number, isPiece: boolean): boolean => {
  const { features } = connection.dialect
  if (!features.setTensorCacheFlag) return sizeBytes > features.hashThresholdBytes
  return sizeBytes >= (isPiece ? LEAST_OFFERED_BYTES.others : leastOffered(connection))
}

/** Weights with what they may be of others. */
const withSlices = (coming: readonly ComingWeight[], isCut: boolean): readonly ModelWeight[] => {
  const byName = Map.groupBy(coming, ({ name }) => name)
  return [...byName].flatMap(([name, parts]) => {
    // The count of parts does not tell: devices of this host may have others.
    const division = isCut ? divisionOf(name, byName) : "rows"
    const slices = parts.length === 1 ? [[]] : slicesOf(parts)
    return parts.map((part, index) => ({ ...part, division, slices: slices[index]! }))
  })
}

/** Where a piece lies in the model, by where its weight lies; undefined where that is another one. */
const placeOf = (
  { sizeBytes, slice }: Omit<Piece, "name">,
  whole: TensorPlace | undefined,
): WeightPlace | undefined => {
  if (whole === undefined) return undefined
  const { part, offsetBytes } = whole
  if (sizeBytes === whole.sizeBytes) return { part, offsetBytes, sizeBytes }
  if (slice === undefined || slice.wholeBytes !== whole.sizeBytes) return undefined
  return { part, offsetBytes: offsetBytes + slice.fromBytes, sizeBytes, slice }
}

/** Of a weight, or of what it may be a slice of. */
const findHash = (
  hashes: WeightHashes,
  { name, sizeBytes, division, slices }: ModelWeight,
): WeightHash | undefined => {
  for (const slice of [undefined, ...(division === "rows" ? slices : [])]) {
    const hash = hashes.find(name, sizeBytes, slice)
    if (hash !== undefined) return hash
  }
  return undefined
}

/** Whether that was offered which the piece turned out to be. */
const isOf = (offer: Offer | undefined, { sizeBytes, slice }: Piece): boolean => {
  if (offer?.sizeBytes !== sizeBytes) return false
  if (offer.slice !== undefined) return slice !== undefined && isSameSlice(offer.slice, slice)
  return slice === undefined || (slice.fromBytes === 0 && slice.rowCount === 1)
}

/** Waits for the answer. */
const isHit = ({ connection, ticket, answers, at }: Offer): boolean => {
  connection.drainTo(ticket)
  return connection.failure === undefined && answers[at] === 1
}

/**
 * The smallest ones of those that every kind of client and server keeps in caches; of a model without such weights, the largest.
 */
const sampleOf = (weights: readonly Placed[]): readonly Placed[] => {
  const rising = [...weights].sort((a, b) => a.place.sizeBytes - b.place.sizeBytes)
  const { hashThresholdBytes } = weights[0]!.weight.connection.dialect.features
  const large = rising.filter(({ place }) => place.sizeBytes > hashThresholdBytes)
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
