import { expect, test } from "bun:test"
import { splitAs } from "./draftPlan.ts"
import type { ModelPlan } from "./ModelPlan.ts"
import { splitUnits } from "./planner/index.ts"

const planWith = (unitCounts: ReadonlyArray<number>) =>
  ({ devices: unitCounts.map((unitCount) => ({ unitCount })) }) as unknown as ModelPlan

test("a plan is split as another one was, whatever memory there is", () => {
  for (const unitCounts of [[5, 4], [0, 9], [3, 0, 1], [7]]) {
    const { gpuLayers, tensorSplit } = splitAs(planWith(unitCounts))
    expect(splitUnits(gpuLayers!, tensorSplit!)).toEqual(unitCounts)
  }
})

test("and stays with this host where it was there", () => {
  for (const unitCounts of [[], [0, 0]]) {
    expect(splitAs(planWith(unitCounts))).toEqual({ gpuLayers: 0 })
  }
})
