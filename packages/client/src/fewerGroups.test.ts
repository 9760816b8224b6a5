import { expect, test } from "bun:test"
import * as Effect from "effect/Effect"
import { PlanError } from "./errors.ts"
import { orFewerGroups, type Planned } from "./fewerGroups.ts"

const planned = (groupCount: number, contextSize: number, hostUnits = 0): Planned => ({
  plan: {
    contextSize,
    ...(contextSize < 4096 && { wantedContextSize: 4096 }),
    host: { unitCount: hostUnits },
  },
  context: groupCount > 1 ? { groupCount } : {},
})

/** What is chosen, and for how many plans the engine was asked. */
const choose = (most: Planned | PlanError, one: Planned | PlanError) => {
  let count = 0
  const chosen = orFewerGroups((mostGroups) => {
    count++
    const result = mostGroups === 1 ? one : most
    return result instanceof PlanError ? Effect.fail(result) : Effect.succeed(result)
  })
  return { chosen: Effect.runSync(Effect.either(chosen)), count }
}

const chosenOf = (most: Planned | PlanError, one: Planned | PlanError) => {
  const { chosen } = choose(most, one)
  return chosen._tag === "Right" ? chosen.right : chosen.left
}

test("groups are kept where they cost nothing, and nothing else is planned then", () => {
  const most = planned(2, 4096)
  expect(choose(most, planned(1, 4096))).toMatchObject({ chosen: { right: most }, count: 1 })
})

test("one group is better where it leaves a longer context", () => {
  const one = planned(1, 4096)
  expect(chosenOf(planned(2, 2048), one)).toBe(one)
  // Also where the host has layers in both.
  const onHost = planned(1, 3072, 4)
  expect(chosenOf(planned(2, 2048, 4), onHost)).toBe(onHost)
})

test("one group is better where it leaves more layers with devices", () => {
  const one = planned(1, 4096, 1)
  expect(chosenOf(planned(2, 4096, 3), one)).toBe(one)
})

test("groups stay where one would be no better, or has no plan", () => {
  const most = planned(2, 2048)
  expect(chosenOf(most, planned(1, 2048))).toBe(most)
  const refused = new PlanError({ reason: "does-not-fit", detail: "" })
  expect(chosenOf(most, refused)).toBe(most)
})

test("what fits only without groups is planned without", () => {
  const one = planned(1, 4096)
  const refused = new PlanError({ reason: "does-not-fit", detail: "" })
  expect(chosenOf(refused, one)).toBe(one)
  const other = new PlanError({ reason: "slots", detail: "" })
  expect(chosenOf(other, one)).toBe(other)
})
