import { expect, test } from "bun:test"
import { ChangelogError, increase, releaseOf } from "./versions.ts"

const changelog = (kind: string): string =>
  `# Changelog\n\n## Unreleased\n\n### ${kind}\n\n- Something.\n\n## 0.1.0 - 2026-01-01\n\n- The first.\n`

const next = (kind: string, current = "0.1.0"): string =>
  releaseOf(changelog(kind), current, "2026-02-03").version

test("what is mended, added and removed makes the version", () => {
  expect([next("Fixed"), next("Added"), next("Removed")]).toEqual(["0.1.1", "0.2.0", "0.2.0"])
  expect(increase("1.4.2", "major")).toBe("2.0.0")
  expect(increase("1.4.2", "minor")).toBe("1.5.0")
  expect(increase("1.4.2", "patch")).toBe("1.4.3")
})

test("a version that the changelog does not have yet is released as it is", () => {
  expect(releaseOf(changelog("Added"), "0.5.0", "2026-02-03")).toMatchObject({
    version: "0.5.0",
    bump: undefined,
  })
})

test("the section gets its heading, and an empty one stands before it", () => {
  const { changelog: released, notes } = releaseOf(changelog("Fixed"), "0.1.0", "2026-02-03")
  expect(notes).toBe("### Fixed\n\n- Something.")
  expect(released).toBe(
    "# Changelog\n\n## Unreleased\n\n## 0.1.1 - 2026-02-03\n\n### Fixed\n\n- Something.\n\n## 0.1.0 - 2026-01-01\n\n- The first.\n",
  )
})

test("nothing to release is an error", () => {
  expect(() => releaseOf("# Changelog\n", "0.1.0", "2026-02-03")).toThrow(ChangelogError)
  const empty = "# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n- The first.\n"
  expect(() => releaseOf(empty, "0.1.0", "2026-02-03")).toThrow("tells of no change")
})
