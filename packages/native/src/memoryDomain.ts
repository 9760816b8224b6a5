/**
 * Which memory a device draws from, as a name that two servers of one host give alike and that tells nothing else: a hash of
 * this run of the machine, and of what limits memory in it.
 */
import { readFileSync } from "node:fs"
import { asPointer } from "./io.ts"
import { type Device, ggml } from "./libggml.ts"
import { memoryPools } from "./memory.ts"

/** Bytes of a domain's name. */
export const DOMAIN_BYTES = 16

/** Nobody else hashes with it, so that a name leads to no machine that is known by its id elsewhere. */
const SALT = "ggml-rpc memory domain 1"

/**
 * New each time the machine starts, and the same in all its containers, as `/etc/machine-id` is not: images and clones share
 * that one.
 */
const readBootId = (): string | undefined => {
  try {
    if (process.platform === "linux") {
      return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()
    }
    const { stdout, success } = Bun.spawnSync(["sysctl", "-n", "kern.bootsessionuuid"])
    return success ? stdout.toString().trim() : undefined
  } catch {
    return undefined
  }
}

let bootId: string | undefined | null = null

/** Named for `scope` alone where the machine tells nothing of itself: then only those of one scope are known to be the same. */
const domainOf = (memory: string, scope: string, isKnown = true): Uint8Array => {
  if (bootId === null) bootId = readBootId()
  const place = isKnown && bootId ? `boot ${bootId}` : `scope ${scope}`
  const hash = new Bun.CryptoHasher("sha256").update([SALT, place, memory].join("\0")).digest()
  return hash.subarray(0, DOMAIN_BYTES)
}

/** Of this process's own memory: that of the innermost cgroup that limits it, else the machine's. */
export const hostDomain = (scope: string): Uint8Array => domainOf(memoryPools().at(-1)!.id, scope)

/**
 * Of a device. `scope` is a name of what this process belongs to; a device that does not say which one of the machine it is has
 * a domain within that.
 */
export const deviceDomain = (device: Device, scope: string): Uint8Array => {
  if (device.type === "CPU" || device.type === "ACCEL") return hostDomain(scope)
  const id = String(ggml().gs_device_id(asPointer(device.address)) ?? "")
  return id === ""
    ? domainOf(`device ${device.name}`, scope, false)
    : domainOf(`device ${id}`, scope)
}
