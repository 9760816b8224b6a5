import { toArrayBuffer } from "bun:ffi"
import { type Address, asPointer } from "@ggml-rpc/native/bindings"
import { Fnv1a64 } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { Exchange } from "./Exchange.ts"
import { askSetTensorHash } from "./requests.ts"

/** How weights reach their servers: counts them, and offers large ones by their hash. */
export class WeightUpload {
  /** Bytes of weights that need not be sent any more: sent, or found in a server's cache. */
  doneBytes = 0
  /** Of those, bytes that a server had in its cache. */
  cachedBytes = 0
  /** Called after each weight; the engine reports progress from it. */
  onWeight: (() => void) | undefined
  private readonly exchange: Exchange
  /**
   * Servers that have no cache, or lacked a weight: they hold no part of this model, and hashing costs more than
   * sending.
   */
  private readonly coldCaches = new Set<RpcConnection>()

  constructor(exchange: Exchange) {
    this.exchange = exchange
  }

  /** The server of this connection has no cache. */
  expectNoCache(connection: RpcConnection): void {
    this.coldCaches.add(connection)
  }

  /** Whether a weight of this size is worth a place in a cache. */
  isCacheable({ dialect }: RpcConnection, sizeBytes: number): boolean {
    return sizeBytes > dialect.features.hashThresholdBytes
  }

  /** Offers a large weight by its hash; true when the server had the data, and nothing is left to send. */
  offer(connection: RpcConnection, data: Address, offset: number, sizeBytes: number): boolean {
    if (this.coldCaches.has(connection)) return false
    if (connection.failure === undefined) {
      // The request is built from the exchange block, which the hash does not touch.
      const bytes = new Uint8Array(toArrayBuffer(asPointer(data), 0, sizeBytes))
      const hash = new Fnv1a64().update(bytes)
      if (askSetTensorHash(connection, this.exchange, offset, hash)) {
        this.cachedBytes += sizeBytes
        this.done(sizeBytes)
        return true
      }
    }
    this.coldCaches.add(connection)
    return false
  }

  done(sizeBytes: number): void {
    this.doneBytes += sizeBytes
    this.onWeight?.()
  }
}
