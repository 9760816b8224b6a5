import { expect, test } from "bun:test"
import type { EngineModelOptions } from "./messages.ts"
import { usedPlaces } from "./usedPlaces.ts"

test.each<readonly [string, EngineModelOptions["overrides"], ReadonlyArray<number>]>([
  ["those with layers", undefined, [0, 2]],
  ["one with tensors that were told to go there", [{ pattern: "exps", device: 7 }], [0, 1, 2]],
  ["none for tensors of this host", [{ pattern: "exps", device: -1 }], [0, 2]],
  ["none for tensors of a device beside", [{ pattern: "exps", device: 1 }], [0, 2]],
])("of a model's devices are used: %s", (_, overrides, places) => {
  const placement = { devices: [4, 7, 5, 6], unitCounts: [3, 0, 1, 0] }
  const model = { mmap: true, ...(overrides && { overrides }) }
  expect(usedPlaces({ placement, model })).toEqual(places)
})
