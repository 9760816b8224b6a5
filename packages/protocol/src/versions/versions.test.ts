import { describe, expect, test } from "bun:test"
import {
  commonNumbering,
  dialectsOf,
  findOffer,
  findVersion,
  formatVersion,
  helloRange,
  libraryNumbering,
  newest,
  offers,
  select,
  servable,
  shortVersion,
  type Version,
  versionRange,
  versions,
} from "../index.ts"
import { gluOpNames, opNames, unaryOpNames } from "./numbering.ts"

type Names = readonly string[]

const version = (text: string): Version => {
  const [major, minor, patch] = text.split(".").map(Number)
  return { major: major!, minor: minor!, patch: patch! }
}
const names = versions.map((spec) => formatVersion(spec.version))

describe("the list", () => {
  test("is newest first, each once", () => {
    const rank = (spec: (typeof versions)[number]) => {
      const { major, minor, patch } = spec.version
      return major * 10_000 + minor * 100 + patch
    }
    const ranks = versions.map(rank)
    expect(ranks).toEqual(ranks.toSorted((a, b) => b - a))
    expect(new Set(names).size).toBe(names.length)
    expect(versions[0]).toBe(newest)
    expect(versionRange).toBe(`2.0 to ${shortVersion(newest.version)}`)
    expect(shortVersion({ major: 3, minor: 6, patch: 1 })).toBe("3.6")
  })

  test("is found by name, the newest that fits", () => {
    for (const spec of versions) expect(findVersion(formatVersion(spec.version))).toBe(spec)
    const found = (name: string) => {
      const spec = findVersion(name)
      return spec === undefined ? undefined : formatVersion(spec.version)
    }
    expect(found("4.0")).toBe("4.0.3")
    expect(found("5")).toBe("5.1.0")
    expect(found("3")).toBe("3.6.1")
    for (const name of ["", "1", "3.", "30", "4.0.9", "4.0.3.0", "v8", "107.0.0"]) {
      expect(found(name)).toBeUndefined()
    }
  })
})

/**
 * What an upstream client makes of a server's version: it goes on when the major is its own and the minor not above its own;
 * ggml-rpc.cpp `negotiate_hello` (8.0.0). Patches are not looked at.
 */
const clientAccepts = (client: Version, server: Version): boolean =>
  server.major === client.major && server.minor <= client.minor

/** Payload sizes of all commands: what a peer must agree on. */
const sizesOf = ({ commands }: (typeof versions)[number]) =>
  Object.fromEntries(
    Object.entries(commands).map(([name, { request, response }]) => [
      name,
      [request.minSizeBytes, request.maxSizeBytes, response?.minSizeBytes, response?.maxSizeBytes],
    ]),
  )

describe("what a server offers", () => {
  for (const client of versions) {
    test(`a client of ${formatVersion(client.version)} takes first what speaks as it does`, () => {
      const offered = offers(client.features.helloCaps).find(({ version }) =>
        clientAccepts(client.version, version),
      )!
      expect(sizesOf(offered)).toEqual(sizesOf(client))
      expect(offered.numberings).toEqual(expect.arrayContaining([...client.numberings]))
      expect(offered.features.helloCaps).toBe(client.features.helloCaps)
    })
  }

  test("is found by name: a version of any patch without one, the very table with it", () => {
    expect(findOffer("4.0")).toBe(offers(true).at(-1)!)
    expect(findOffer("4")).toBe(offers(true).at(-1)!)
    expect(findOffer("4.0.2")).toBe(findVersion("4.0.2")!)
    expect(findOffer("5.1")).toBe(findVersion("5.1.0")!)
    expect(findOffer("3.6")!.numberings).toEqual([...findVersion("3.6.0")!.numberings])
    expect(findOffer("4.0@97")!.version).toEqual(findVersion("4.0.1")!.version)
    expect(findOffer("3.0@94")!.numberings.map(({ ops }) => ops.length)).toEqual([94])
    expect(findOffer("3.0@90")!.numberings).toHaveLength(2)
    for (const name of ["", "1", "107", "auto", "3.0@93", "8.0@101", "3.0@"]) {
      expect(findOffer(name)).toBeUndefined()
    }
    expect(servable.length).toBeLessThan(128)
  })

  test("is each of its builds, where it stands for several", () => {
    const builds = (name: string): readonly string[] =>
      dialectsOf(findOffer(name)!).map(
        ({ numbering, version }) => `${numbering.ops.length} ${formatVersion(version)}`,
      )
    expect(builds("4.0")).toEqual(["101 4.0.3", "98 4.0.2", "97 4.0.1", "96 4.0.0"])
    expect(builds("3.6")).toEqual(["96 3.6.0", "95 3.6.0"])
    expect(builds("5.0")).toEqual(["101 5.0.0"])
    const gatedDeltaNet = libraryNumbering.ops.indexOf("GATED_DELTA_NET")
    expect(dialectsOf(findOffer("4.0")!).map(({ ops }) => ops.toWire[gatedDeltaNet]! >= 0)).toEqual(
      [true, true, true, false],
    )
  })

  test("is told by ranges to who says the other HELLO", () => {
    expect(helloRange(true)).toBe(`4.0 to ${shortVersion(newest.version)}`)
    expect(helloRange(false)).toBe("2.0 to 3.6")
  })
})

describe("a server that announces a version without a table is refused", () => {
  const refusalOf = (announced: string): string => {
    const selection = select(version(announced))
    if (!("refusal" in selection)) throw new Error(`${announced} was accepted`)
    return selection.refusal
  }
  const instead = `run the server of ${newest.releases} there, or 'ggml-rpc serve'`
  const ours = `this client 2.0 to ${shortVersion(newest.version)}`
  const later = (theirs: string, last: string): string =>
    `the server speaks protocol ${theirs}, and ${ours}, where ${last} is the last of ${last[0]}: a later one may number operations otherwise, so update this client, or ${instead}`
  const unknown = (theirs: string): string =>
    `the server speaks protocol ${theirs}, which this client does not know, and ${ours}: if a newer llama.cpp runs there, update this client, and if it is a fork, ${instead}`
  const unread = (theirs: string, by: string): string =>
    `the server speaks protocol ${theirs}, which is ${by}, and ${ours}: ${instead}`

  test.each([
    [
      "1.0.0",
      `the server speaks protocol 1.0.0, and ${ours}: the server is too old, so update it, or run 'ggml-rpc serve' there`,
    ],
    ["9.0.0", unread("9.0.0", "llama.cpp v1.0's")],
    ["9.1.0", unread("9.1.0", "a fork's own")],
    ["107.0.0", unread("107.0.0", "a fork's own")],
    ["108.0.0", unread("108.0.0", "a fork's own")],
    ["8.0.1", later("8.0.1", "8.0.0")],
    ["8.1.0", later("8.1.0", "8.0.0")],
    ["7.1.0", later("7.1.0", "7.0.0")],
    ["4.0.9", later("4.0.9", "4.0.3")],
    ["3.7.0", later("3.7.0", "3.6.1")],
    // Between two that are known: no later one.
    ["3.1.0", unknown("3.1.0")],
    ["100.0.0", unknown("100.0.0")],
    ["255.255.255", unknown("255.255.255")],
  ])("%s", (announced, sentence) => expect(refusalOf(announced)).toBe(sentence))

  test("in one sentence, whatever it announces", () => {
    for (let major = 0; major < 256; major++) {
      for (const rest of ["0.0", "0.7", "9.0", "6.1"]) {
        const announced = `${major}.${rest}`
        if (names.includes(announced)) continue
        const sentence = refusalOf(announced)
        expect(sentence).toStartWith(`the server speaks protocol ${announced}, `)
        expect(sentence).toContain(ours)
        expect(sentence).toContain("ggml-rpc serve")
        expect(sentence).not.toMatch(/\.$|\. |undefined/)
      }
    }
  })
})

describe("each version", () => {
  for (const spec of versions) {
    describe(formatVersion(spec.version), () => {
      test("selects itself by what it announces", () => {
        expect(select({ ...spec.version })).toEqual({ spec })
      })

      test("has numberings of different names, whose names are unique and known", () => {
        expect(spec.numberings.length).toBeGreaterThan(0)
        const labels = spec.numberings.map(({ name }) => name)
        expect(new Set(labels).size).toBe(labels.length)
        for (const { ops, unaryOps, gluOps } of spec.numberings) {
          const pairs: readonly (readonly [Names, Names])[] = [
            [ops, opNames],
            [unaryOps, unaryOpNames],
            [gluOps, gluOpNames],
          ]
          for (const [theirs, all] of pairs) {
            expect(new Set(theirs).size).toBe(theirs.length)
            expect(theirs.filter((name) => !all.includes(name))).toEqual([])
          }
        }
      })

      test("names ops that exist, and parameters that an operation has", () => {
        const { expandingOps, changedOps, narrowerOps } = spec.features
        const { limits, sourceLimits, fills } = spec.features
        const rules = [...limits, ...fills]
        const ruled = [...rules, ...sourceLimits].map(({ op }) => op)
        for (const op of [...expandingOps, ...changedOps, ...narrowerOps, ...ruled]) {
          expect(libraryNumbering.ops).toContain(op)
        }
        for (const { source } of sourceLimits) {
          expect(Number.isInteger(source) && source >= 0 && source < 10).toBe(true)
        }
        for (const { slot } of rules) {
          expect(Number.isInteger(slot) && slot >= 0 && slot < 16).toBe(true)
        }
        const isU32 = (value: number) => value >>> 0 === value
        for (const { mask, min, max } of limits) {
          expect([mask, min, max].every(isU32)).toBe(true)
          expect(mask).toBeGreaterThan(0)
          expect(min).toBeLessThanOrEqual(max)
          expect((min & mask) >>> 0).toBe(min)
        }
        for (const { from, to } of fills) {
          expect([from, to].every(isU32)).toBe(true)
          expect(from).not.toBe(to)
        }
        const slots = limits.map(({ op, slot }) => `${op} ${slot}`)
        expect(new Set(slots).size).toBe(slots.length)
        // What is filled in must be what the limits let through, or the version could not say it back.
        for (const { op, slot, to } of fills) {
          const limit = limits.find((limit) => limit.op === op && limit.slot === slot)
          if (limit === undefined) continue
          const value = (to & limit.mask) >>> 0
          expect(value >= limit.min && value <= limit.max).toBe(true)
        }
      })

      test("has features that agree with its commands", () => {
        const { commands, features } = spec
        expect(features.helloCaps).toBe(commands.HELLO!.request.minSizeBytes === 24)
        expect(features.deviceField).toBe(commands.DEVICE_COUNT !== undefined)
        expect(features.deviceField).toBe(commands.GET_ALIGNMENT!.request.minSizeBytes === 4)
        expect(features.graphStatus).toBe(commands.GRAPH_COMPUTE!.response !== null)
        expect(features.setTensorCacheFlag).toBe(commands.SET_TENSOR!.request.minSizeBytes === 305)
        const recompute = commands.GRAPH_RECOMPUTE?.request.minSizeBytes
        const stored = recompute === undefined ? "none" : recompute === 12 ? "uid" : "last"
        expect(features.storedGraphs).toBe(stored)
      })
    })
  }
})

describe("payload sizes by version", () => {
  type Size = number | "silent" | "n/a"

  // Each size holds until the next.
  const sizes: readonly (readonly [
    command: keyof typeof newest.commands,
    side: "request" | "response",
    since: { readonly [version: string]: Size },
  ])[] = [
    ["HELLO", "request", { "2.0.0": 0, "4.0.0": 24 }],
    ["HELLO", "response", { "2.0.0": 3, "4.0.0": 28 }],
    ["ALLOC_BUFFER", "request", { "2.0.0": 8, "3.0.0": 12 }],
    ["GET_ALIGNMENT", "request", { "2.0.0": 0, "3.0.0": 4 }],
    ["GET_MAX_SIZE", "request", { "2.0.0": 0, "3.0.0": 4 }],
    ["GET_DEVICE_MEMORY", "request", { "2.0.0": 0, "3.0.0": 4 }],
    ["GET_ALLOC_SIZE", "request", { "2.0.0": 296, "3.0.0": 300, "3.6.0": 3260 }],
    ["GRAPH_COMPUTE", "request", { "2.0.0": 8, "3.0.0": 12, "8.0.0": 20 }],
    ["GRAPH_COMPUTE", "response", { "2.0.0": 1, "3.5.0": "silent" }],
    ["GRAPH_RECOMPUTE", "request", { "2.0.0": "n/a", "3.5.0": 4, "8.0.0": 12 }],
    ["GRAPH_RECOMPUTE", "response", { "2.0.0": "n/a", "3.5.0": "silent" }],
    ["SET_TENSOR", "request", { "2.0.0": 304, "7.0.0": 305 }],
    ["SET_TENSOR", "response", { "2.0.0": "silent" }],
    ["FREE_BUFFER", "response", { "2.0.0": 0, "6.0.0": "silent" }],
    ["BUFFER_CLEAR", "response", { "2.0.0": 0, "6.0.0": "silent" }],
    ["INIT_TENSOR", "response", { "2.0.0": 0, "6.0.0": "silent" }],
    ["MEMSET_TENSOR", "response", { "2.0.0": "n/a", "5.0.0": 0, "6.0.0": "silent" }],
    ["DEVICE_COUNT", "response", { "2.0.0": "n/a", "3.0.0": 4 }],
    ["SET_TENSOR_2D", "request", { "2.0.0": "n/a", "8.0.0": 328 }],
    ["COMM_INIT", "response", { "2.0.0": "n/a", "8.0.0": 1 }],
    ["COMM_ALLREDUCE", "response", { "2.0.0": "n/a", "8.0.0": "silent" }],
  ]
  test.each(sizes)("%s %s", (command, side, since) => {
    let expected: Size | undefined
    for (const { version, commands } of versions.toReversed()) {
      const name = formatVersion(version)
      expected = since[name] ?? expected
      const entry = commands[command]
      const size = entry === undefined ? "n/a" : (entry[side]?.minSizeBytes ?? "silent")
      expect(`${name} ${size}`).toBe(`${name} ${expected}`)
    }
  })
})

describe("what numberings have in common", () => {
  test("of one is that one", () => {
    const [only] = newest.numberings
    expect(commonNumbering([only!])).toBe(only!)
    expect(() => commonNumbering([])).toThrow(RangeError)
  })

  for (const spec of versions.filter(({ numberings }) => numberings.length > 1)) {
    test(`of ${formatVersion(spec.version)} leaves ambiguous numbers empty`, () => {
      const { numberings } = spec
      const common = commonNumbering(numberings)
      for (const kind of ["ops", "unaryOps", "gluOps"] as const) {
        const longest = Math.max(...numberings.map((numbering) => numbering[kind].length))
        for (let id = 0; id < longest; id++) {
          const meanings = new Set(numberings.map((numbering) => numbering[kind][id]))
          const [meaning] = meanings
          const expected = meanings.size === 1 ? meaning! : ""
          expect(common[kind][id] ?? "").toBe(expected)
        }
      }
      for (const { types } of numberings) {
        for (const type of common.types) expect(types).toContain(type)
      }
    })
  }
  test("leaves the products of matrices where only later operations were inserted", () => {
    const keeps = (version: string) =>
      commonNumbering(findVersion(version)!.numberings).ops.includes("MUL_MAT")
    expect(keeps("2.0.0")).toBe(true)
    expect(keeps("3.6.0")).toBe(true)
    // CUMSUM was inserted before it: without knowing the build nothing beyond SUM_ROWS has a number.
    expect(keeps("3.0.0")).toBe(false)
    expect(commonNumbering(findVersion("3.0.0")!.numberings).ops[15]).toBe("SUM_ROWS")
  })
})
