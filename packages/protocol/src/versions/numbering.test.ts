import { describe, expect, test } from "bun:test"
import builds from "../../fixtures/builds.json"
import releases from "../../fixtures/numbering.json"
import {
  Command,
  commandName,
  findVersion,
  formatVersion,
  libraryNumbering,
  type Numbering,
  types,
  versions,
} from "../index.ts"

/*
 * The tables against facts that were not made from them: the enums of every state that ggml's headers have had since 87
 * operations (builds.json), and those of released llama.cpp trees, as a compiler sees them (numbering.json).
 */

interface Facts {
  readonly ops: readonly string[]
  readonly unaryOps: readonly string[]
  readonly gluOps: readonly string[]
  readonly types: readonly { readonly id: number }[]
}

interface Build extends Facts {
  readonly protocol: string
  readonly since: string
}

const split = (lists: { readonly [count: string]: string }, count: number): readonly string[] => {
  const names = lists[count]!.split(" ")
  expect(names.length).toBe(count)
  return names
}

const history: readonly Build[] = builds.builds.map((build) => ({
  protocol: build.protocol,
  since: build.since,
  ops: split(builds.ops, build.ops),
  unaryOps: split(builds.unaryOps, build.unaryOps),
  gluOps: split(builds.gluOps, build.gluOps),
  types: builds.types.filter(({ id }) => id < build.typeCount),
}))

const names = ({ ops, unaryOps, gluOps }: Facts) => ({ ops, unaryOps, gluOps })
const isSame = (a: Facts, b: Facts) => Bun.deepEquals(names(a), names(b))

const tableOf = (protocol: string): readonly Numbering[] => findVersion(protocol)!.numberings

test("there are facts of every version, and a table of every fact", () => {
  const known = new Set(history.map(({ protocol }) => protocol))
  const tables = versions.map(({ version }) => formatVersion(version))
  expect([...known].toSorted()).toEqual(tables.toSorted())
})

test("types have the ids and sizes of the newest build", () => {
  expect<unknown>(types).toEqual(builds.types)
})

describe("every state of ggml's headers is a numbering of its version", () => {
  for (const build of history) {
    test(`${build.protocol} since ${build.since}`, () => {
      const found = tableOf(build.protocol).filter((numbering) => isSame(numbering, build))
      expect(found.length).toBe(1)
    })
  }
})

describe("every numbering is a state of ggml's headers", () => {
  for (const spec of versions) {
    const protocol = formatVersion(spec.version)
    test(protocol, () => {
      const states = history.filter((build) => build.protocol === protocol)
      let last = -1
      for (const numbering of spec.numberings) {
        const same = states.filter((build) => isSame(numbering, build))
        expect(same.length).toBeGreaterThan(0)
        // Nothing that a peer shows tells states apart that differ in types alone: only what all know is safe.
        const known = types.filter((type) =>
          same.every((build) => build.types.some(({ id }) => id === type.id)),
        )
        expect<unknown>(numbering.types).toEqual(known)
        // Oldest first.
        const position = states.indexOf(same[0]!)
        expect(position).toBeGreaterThan(last)
        last = position
      }
    })
  }
})

describe("released trees", () => {
  for (const [key, release] of Object.entries(releases)) {
    test(`${key} (${release.release})`, () => {
      const found = tableOf(release.protocol).filter((numbering) => isSame(numbering, release))
      expect(found.length).toBe(1)
      const released: readonly unknown[] = release.types
      for (const type of found[0]!.types) expect(released).toContainEqual(type)
      for (const type of release.types) expect<readonly unknown[]>(types).toContainEqual(type)
    })

    test(`${key} has the commands of its version`, () => {
      const { commands } = findVersion(release.protocol)!
      const travelling = release.commands.filter((name) => name !== "NONE")
      expect(Object.keys(commands).toSorted()).toEqual(travelling.toSorted())
      travelling.forEach((name, id) => {
        expect<string | undefined>(commandName(id)).toBe(name)
        expect(Command[name as keyof typeof Command]).toBe(id as never)
      })
    })
  }

  test("the ggml that is loaded is the newest of them", () => {
    const newest = Object.values(releases).at(-1)!
    expect(isSame(libraryNumbering, newest)).toBe(true)
    expect<unknown>(libraryNumbering.types).toEqual(newest.types)
  })
})
