import { toArrayBuffer } from "bun:ffi"
import { type Address, asPointer } from "@ggml-rpc/native/bindings"
import { Fnv1a64 } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { Exchange } from "./Exchange.ts"
import { askSetTensorHash } from "./requests.ts"

/**
 * Part of a load's time that may go into hashes of weights that a server turns out not to have: it takes as long to hash as to
 * send where the network is fast, and a tenth of that where it is slow.
 */
const WASTE_SHARE = 0.05

/** Where a server had weights of this model before, what it lacks is a file or two as a rule. */
const PATIENT_MISSES = 2

/** How offers to a server went, in this load. */
interface Luck {
  hits: number
  /** Since the last hit. */
  misses: number
  wastedMs: number
}

/** Native memory is looked at through windows of this size: one ArrayBuffer has no more than 4 GiB. */
const WINDOW_BYTES = 64 * 1024 * 1024

const hashOf = (data: Address, sizeBytes: number): Fnv1a64 => {
  const hash = new Fnv1a64()
  for (let at = 0; at < sizeBytes; at += WINDOW_BYTES) {
    const part = Math.min(WINDOW_BYTES, sizeBytes - at)
    hash.update(new Uint8Array(toArrayBuffer(asPointer(data + at), 0, part)))
  }
  return hash
}

/** How weights reach their servers: counts them, and offers large ones by their hash. */
export class WeightUpload {
  /** Bytes of weights that need not be sent any more: sent, or found in a server's cache. */
  doneBytes = 0
  /** Of those, bytes that a server had in its cache. */
  cachedBytes = 0
  /** Called after each weight; the engine reports progress from it. */
  onWeight: (() => void) | undefined
  private readonly exchange: Exchange
  private readonly now: () => number
  private readonly withoutCache = new Set<RpcConnection>()
  private readonly luck = new Map<RpcConnection, Luck>()
  private startedMs: number

  /** `now` gives milliseconds. */
  constructor(exchange: Exchange, now: () => number = () => performance.now()) {
    this.exchange = exchange
    this.now = now
    this.startedMs = now()
  }

  /** The server of this connection has no cache. */
  expectNoCache(connection: RpcConnection): void {
    this.withoutCache.add(connection)
  }

  /** Another load begins: what a server lacked before, it may have got by now. */
  begin(): void {
    this.luck.clear()
    this.startedMs = this.now()
  }

  /** Whether a weight of this size is worth a place in a cache. */
  isCacheable({ dialect }: RpcConnection, sizeBytes: number): boolean {
    return sizeBytes > dialect.features.hashThresholdBytes
  }

  /** Offers a large weight by its hash; true when the server had the data, and nothing is left to send. */
  offer(connection: RpcConnection, data: Address, offset: number, sizeBytes: number): boolean {
    if (this.withoutCache.has(connection) || connection.failure !== undefined) return false
    const luck = this.luckOf(connection)
    const startedMs = this.now()
    if (!this.isWorthIt(luck, startedMs)) return false
    // The request is built from the exchange block, which the hash does not touch.
    if (askSetTensorHash(connection, this.exchange, offset, hashOf(data, sizeBytes))) {
      luck.hits++
      luck.misses = 0
      this.cachedBytes += sizeBytes
      this.done(sizeBytes)
      return true
    }
    luck.misses++
    luck.wastedMs += this.now() - startedMs
    return false
  }

  private luckOf(connection: RpcConnection): Luck {
    const known = this.luck.get(connection)
    if (known !== undefined) return known
    const made = { hits: 0, misses: 0, wastedMs: 0 }
    this.luck.set(connection, made)
    return made
  }

  private isWorthIt({ hits, misses, wastedMs }: Luck, nowMs: number): boolean {
    if (misses === 0 || (hits > 0 && misses < PATIENT_MISSES)) return true
    return wastedMs <= WASTE_SHARE * (nowMs - this.startedMs)
  }

  done(sizeBytes: number): void {
    this.doneBytes += sizeBytes
    this.onWeight?.()
  }
}
