import { type Address, io } from "../io.ts"

/** FNV-1a-64 of bytes in memory, by halves: the low one first. */
export const hashOf = (data: Address, sizeBytes: number): readonly [low: number, high: number] => {
  const words = new Uint32Array(2)
  io().io_hash(1, Float64Array.of(data), Float64Array.of(sizeBytes), words)
  return [words[0]!, words[1]!]
}
