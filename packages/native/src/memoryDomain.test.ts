import { expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { listDevices, loadBackends } from "./libggml.ts"
import { DOMAIN_BYTES, deviceDomain, hostDomain } from "./memoryDomain.ts"

const hex = (bytes: Uint8Array): string => bytes.toHex()

test("this machine's memory has one name, whoever asks", async () => {
  const here = hex(hostDomain("one"))
  expect(here).toHaveLength(2 * DOMAIN_BYTES)
  // Where the machine does not say which one it is, names hold within a scope.
  if (process.platform === "linux") expect(hex(hostDomain("another"))).toBe(here)
  const script = `process.stdout.write(require(${JSON.stringify(`${import.meta.dir}/memoryDomain.ts`)}).hostDomain("one").toHex())`
  const other = Bun.spawn([process.execPath, "-e", script])
  expect(await new Response(other.stdout).text()).toBe(here)
  loadBackends()
  const cpu = listDevices().find(({ type }) => type === "CPU")!
  expect(hex(deviceDomain(cpu, "one"))).toBe(here)
})

test("nothing of the machine's ids is in it", () => {
  const domain = hex(hostDomain("one"))
  for (const path of ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"]) {
    let id: string
    try {
      id = readFileSync(path, "utf8").replaceAll(/[-\s]/g, "")
    } catch {
      continue
    }
    expect(domain).not.toContain(id.slice(0, 8))
    expect(new Bun.CryptoHasher("sha256").update(id).digest("hex")).not.toContain(domain)
  }
})
