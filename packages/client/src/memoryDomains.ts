/**
 * Which devices draw from one memory. Servers of this project say it (MEMORY_DOMAIN); of llama.cpp's something can be told by
 * the address that they have in common, and by the numbers that they give.
 */
import { networkInterfaces } from "node:os"
import { isLoopback } from "@ggml-rpc/protocol"

/** What is known of a device. */
export interface DomainFacts {
  /** What its server, or this machine, says, in hex. */
  readonly domain?: string | undefined
  /** Of its server. */
  readonly address?: string | undefined
  readonly freeBytes: number
  readonly totalBytes: number
}

/** IPv4 addresses as such, also where they stand in one of IPv6. */
export const plainAddress = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/i, "")

const isOfThisMachine = (address: string): boolean =>
  isLoopback(address) ||
  Object.values(networkInterfaces()).some((found) =>
    found?.some((candidate) => candidate.address === address),
  )

/**
 * Upstream's servers give all memory of their machine as free for its CPU. A GPU has always less free than it has: the server
 * itself takes some. Two GPUs of one kind, each with a server of its own, are therefore told from one CPU with two.
 */
const isHostMemory = ({ freeBytes, totalBytes }: DomainFacts): boolean =>
  totalBytes > 0 && freeBytes === totalBytes

/** The domain of each device: equal ones share a memory; undefined: nobody else is known to. `host` is this machine's memory. */
export const domainsOf = (
  devices: ReadonlyArray<DomainFacts>,
  host: DomainFacts,
): ReadonlyArray<string | undefined> => {
  const placeOf = ({ address = "" }: DomainFacts): string =>
    address !== "" && isOfThisMachine(address) ? "here" : address
  const known = [
    { ...host, place: "here" },
    ...devices.map((device) => ({ ...device, place: placeOf(device) })),
  ].filter(({ domain, place }) => domain !== undefined && place !== "")
  return devices.map((device) => {
    const place = placeOf(device)
    if (device.domain !== undefined || place === "" || !isHostMemory(device)) return device.domain
    const same = known.find(
      (other) => other.place === place && other.totalBytes === device.totalBytes,
    )
    return same?.domain ?? `${place} ${device.totalBytes}`
  })
}
