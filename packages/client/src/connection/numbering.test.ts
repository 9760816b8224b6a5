import { describe, expect, test } from "bun:test"
import { commonNumbering, formatVersion, type Numbering, versions } from "@ggml-rpc/protocol"
import { matching, nextProbe, probeFamilies } from "./numbering.ts"

/** What a server of a build answers; it ends over an operation that the tensors are not made for. */
const answerOf = (build: Numbering, probe: NonNullable<ReturnType<typeof nextProbe>>) => {
  const result = probe.family.results[build.ops[probe.op] as "NORM"]
  if (result === undefined) throw new Error(`${build.name} has no such operation`)
  return result
}

const narrowed = (build: Numbering, candidates: ReadonlyArray<Numbering>) => {
  let left = candidates
  let questions = 0
  for (let probe = nextProbe(left); probe !== undefined; probe = nextProbe(left)) {
    left = matching(left, probe, answerOf(build, probe))
    questions++
  }
  return { left, questions }
}

const ambiguous = versions.filter(({ numberings }) => numberings.length > 1)
const builds = ambiguous.flatMap((spec) =>
  spec.numberings.map((build) => [formatVersion(spec.version), build.name, spec, build] as const),
)

describe.each(builds)("a server of protocol %s, %s", (_, __, spec, build) => {
  test("shows its numbers, and no question is a risk to it", () => {
    const { left, questions } = narrowed(build, spec.numberings)
    expect(left).toContain(build)
    expect(questions).toBeLessThanOrEqual(3)
    // Builds that remain together number all operations alike.
    for (const other of left) expect(other.ops).toEqual(build.ops)
    const { ops } = commonNumbering(left)
    expect(ops).toEqual(build.ops)
  })
})

test("a version with one numbering is asked nothing", () => {
  for (const { numberings } of versions) {
    if (numberings.length === 1) expect(nextProbe(numberings)).toBeUndefined()
  }
})

test("results of a family differ, and have the length that is read", () => {
  for (const { results, result, sources } of probeFamilies) {
    const all = Object.values(results)
    expect(new Set(all.map(String)).size).toBe(all.length)
    const length = result === "in-place" ? sources[0]!.length : result
    for (const values of all) expect(values).toHaveLength(length)
    // A read of more would not fit into what a connection keeps for small answers.
    expect(length * 4).toBeLessThanOrEqual(64)
  }
})
