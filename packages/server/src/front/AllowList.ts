import { BlockList, isIP } from "node:net"
import * as Either from "effect/Either"
import { AllowListError } from "./errors.ts"

/** This machine, private networks (RFC 1918, RFC 4193), addresses of one link, and those of carriers' and overlay networks (RFC 6598). */
export const privateRanges: readonly string[] = [
  "127.0.0.0/8",
  "::1/128",
  "10.0.0.0/8",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "169.254.0.0/16",
  "100.64.0.0/10",
  "fc00::/7",
  "fe80::/10",
]

/** `::ffff:10.0.0.1`, as a socket for both families shows an address of version 4. */
const MAPPED = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i

const familyOf = (address: string): "ipv4" | "ipv6" => (isIP(address) === 4 ? "ipv4" : "ipv6")

/** Whose connections a server takes. */
export class AllowList {
  readonly #ranges = new BlockList()

  private constructor(ranges: readonly (readonly [string, number])[]) {
    for (const [address, bits] of ranges) this.#ranges.addSubnet(address, bits, familyOf(address))
  }

  /** Of ranges such as `10.0.0.0/8` and `fd00::/8`, or single addresses. */
  static of(ranges: readonly string[]): Either.Either<AllowList, AllowListError> {
    const parsed: [string, number][] = []
    for (const range of ranges) {
      const [address = "", bits, ...more] = range.trim().split("/")
      const size = isIP(address) === 4 ? 32 : 128
      const prefix = bits === undefined ? size : Number(bits)
      const isRange =
        isIP(address) !== 0 &&
        more.length === 0 &&
        (bits === undefined || /^\d+$/.test(bits)) &&
        prefix <= size
      if (!isRange) return Either.left(new AllowListError({ range }))
      parsed.push([address, prefix])
    }
    return Either.right(new AllowList(parsed))
  }

  /** Whether connections from an address are taken, written as a socket shows it. */
  has(address: string): boolean {
    const plain = MAPPED.exec(address)?.[1] ?? address.replace(/%.*$/, "")
    return this.#ranges.check(plain, familyOf(plain))
  }
}
