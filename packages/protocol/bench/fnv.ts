// FNV-1a-64 throughput: `bun packages/protocol/bench/fnv.ts`. The best of five runs over 256 MiB, and BigInt beside it.
import { Fnv1a64 } from "../src/index.ts"

const data = new Uint8Array(256 * 1024 * 1024)
for (let index = 0; index < data.length; index++) data[index] = index * 31

const seconds = (run: () => unknown): number => {
  const start = performance.now()
  run()
  return (performance.now() - start) / 1000
}

const gigabytesPerSecond = (pieceSizeBytes: number): number => {
  const once = () => {
    const hash = new Fnv1a64()
    for (let at = 0; at < data.length; at += pieceSizeBytes) {
      hash.update(data.subarray(at, at + pieceSizeBytes))
    }
    return hash.digest()
  }
  return data.length / 1e9 / Math.min(...[1, 2, 3, 4, 5].map(() => seconds(once)))
}

const bigintSample = data.subarray(0, 1024 * 1024)
const bigintSeconds = seconds(() => {
  let hash = 0xcbf29ce484222325n
  for (const byte of bigintSample) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  }
  return hash
})

console.log(`whole:        ${gigabytesPerSecond(data.length).toFixed(2)} GB/s`)
console.log(`64 KiB each:  ${gigabytesPerSecond(65536).toFixed(2)} GB/s`)
console.log(`4 KiB each:   ${gigabytesPerSecond(4096).toFixed(2)} GB/s`)
console.log(`BigInt:       ${(bigintSample.length / 1e9 / bigintSeconds).toFixed(3)} GB/s`)
