import { isIP } from "node:net"
import { networkInterfaces } from "node:os"
import { isLoopback } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import { AllowList, privateRanges } from "./AllowList.ts"
import type { AllowListError } from "./errors.ts"

const MAPPED = /^::ffff:([0-9a-f]+):([0-9a-f]+)$/

/** An address in the one way in which it is written, of version 4 where it stands for such a one. */
const plainAddress = (address: string): string => {
  if (isIP(address) !== 6) return address
  const text = new URL(`http://[${address.replace(/%.*$/, "")}]`).hostname.slice(1, -1)
  const [, high, low] = MAPPED.exec(text) ?? []
  if (high === undefined || low === undefined) return text
  const words = [high, low].map((word) => Number.parseInt(word, 16))
  return words.flatMap((word) => [word >> 8, word & 0xff]).join(".")
}

/**
 * Whether a client is on this machine, by its address as the socket shows it. What listens on the loopback alone is there for those:
 * no other client may have it connected to.
 */
export const isOnThisMachine = (client: string): boolean => {
  const plain = plainAddress(client)
  if (isLoopback(plain)) return true
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .some(({ address }) => plainAddress(address) === plain)
}

/**
 * Which addresses a server that listens on `host`, for `allow`, may connect to for a client: see `ServeOptions.peers`. Both as
 * sockets and lookups show them.
 */
export const peersOf = (
  peers: readonly string[] | undefined,
  host: string,
  allow: AllowList,
): Effect.Effect<(address: string, client: string) => boolean, AllowListError> =>
  Effect.map(AllowList.of(peers ?? privateRanges), (list) => (address, client) => {
    const plain = plainAddress(address)
    if (peers !== undefined) return list.has(plain)
    if (isLoopback(plain)) return isOnThisMachine(client)
    return !isLoopback(host) && list.has(plain) && allow.has(plain)
  })
