/** The protocol package's tables of numbers against what the enabled releases' headers say. */
import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync } from "node:fs"
import {
  fixturePath,
  fixtureText,
  type Numbering,
  NumberingError,
  numberingKey,
  parseEnum,
  readNumbering,
} from "./numbering.ts"
import { enabledReleases, newestRelease, releases } from "./releases.ts"

setDefaultTimeout(120_000)

const text = readFileSync(fixturePath, "utf8")
const fixture: Record<string, Numbering> = JSON.parse(text)

describe.each(enabledReleases().map((release) => [release.protocol, release] as const))(
  "release of protocol %s",
  (protocol, release) => {
    test("has the numbers of the fixture and the version of the table", async () => {
      const numbering = await readNumbering(release)
      expect(numbering.protocol).toBe(protocol)
      // When they differ: bun tests/peers/numbering.ts --write
      expect(fixture[numberingKey(numbering)]).toEqual(numbering)
    })
  },
)

test("the fixture has each release of the table, as the script writes it", () => {
  const numberings = Object.values(fixture)
  expect(numberings.map(({ release }) => release)).toEqual(
    releases.map(({ llamaVersion }) => llamaVersion),
  )
  expect(numberings.map(numberingKey)).toEqual(Object.keys(fixture))
  expect(fixtureText(numberings)).toBe(text)
})

describe("an enum in C", () => {
  const parse = (body: string) => parseEnum(`enum kind {${body}};`, "kind", "KIND_", newestRelease)

  test("is read without its comments, prefixes and count", () => {
    const { names } = parse("KIND_A = 0, // KIND_B, removed\n KIND_C, /* a\n KIND_D */ KIND_COUNT,")
    expect(names).toEqual(["A", "C"])
  })

  test.each(["KIND_A", "KIND_A, OTHER_B, KIND_COUNT", ""])("is refused: {%s}", (body) => {
    expect(() => parse(body)).toThrow(NumberingError)
    expect(() => parse(body)).toThrow("v0.5.0 has no enum kind")
  })
})
