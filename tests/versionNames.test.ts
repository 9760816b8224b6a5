/**
 * A protocol version is named and compared in packages/protocol/src/versions/ alone: everything else asks a table (a feature,
 * a size, a number map), or a new version would be a search through all packages.
 */
import { describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { formatVersion, versions } from "@ggml-rpc/protocol"

const root = join(import.meta.dir, "..")
const home = "packages/protocol/src/versions/"

const known = versions.map(({ version }) => formatVersion(version).replaceAll(".", "\\."))
const part = String.raw`\b(?:major|minor|patch)\b`
const comparison = "(?:[=!]==?|(?<!=)[<>]=?)"

const rules: readonly (readonly [what: string, pattern: RegExp])[] = [
  ["a table by its name", /\b[vV]\d+_\d+(?:_\d+)?\b/],
  ["a version as text", new RegExp(`(["'\`])(?:${known.join("|")})\\1`)],
  ["a version looked up by name", /\bfind(?:Version|Offer)\(\s*["'`]/],
  ["a part of a version that is a number", new RegExp(String.raw`${part}\s*:\s*\d`)],
  ["a comparison", new RegExp(String.raw`${part}\s*${comparison}`)],
  ["a comparison", new RegExp(String.raw`${comparison}\s*(?:\w+[.?!]+)*${part}`)],
  ["a switch", new RegExp(String.raw`\bswitch\s*\([^)]*${part}`)],
]

/** Code without comments, which may say where something comes from; lines stay where they are. */
const withoutComments = (code: string): string =>
  code.replace(
    /\/\*[\s\S]*?\*\/|\/\/.*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\[\s\S]|[^`\\])*`/g,
    (token) => (/^\/[/*]/.test(token) ? token.replace(/[^\n]/g, "") : token),
  )

/** Every line that names a version: `LINE: what it is: the line`. */
const namings = (code: string): readonly string[] =>
  withoutComments(code)
    .split("\n")
    .flatMap((line, index) => {
      const rule = rules.find(([, pattern]) => pattern.test(line))
      return rule === undefined ? [] : [`${index + 1}: ${rule[0]}: ${line.trim()}`]
    })

test("no source outside the versions' folder names a version", () => {
  const files = [...new Bun.Glob("packages/*/src/**/*.ts").scanSync({ cwd: root })].filter(
    (path) => !path.startsWith(home) && !path.endsWith(".test.ts"),
  )
  expect(files.length).toBeGreaterThan(100)
  const found = files.flatMap((path) =>
    namings(readFileSync(join(root, path), "utf8")).map((naming) => `${path}:${naming}`),
  )
  expect(found.toSorted()).toEqual([])
})

test("the folder that may does, so the patterns find something", () => {
  expect(namings(readFileSync(join(root, home, "index.ts"), "utf8")).length).toBeGreaterThan(10)
})

describe("is found", () => {
  test.each([
    'import { v7_0 } from "./v7_0.ts"',
    "const spec = V7_0_0",
    'if (formatVersion(version) === "7.0.0") return',
    "const old = names.includes('3.6.1')",
    'const spec = findVersion("8")',
    "if (major === 7) return",
    "if (spec.version.major >= 8) return",
    "return 8 <= version.major",
    "return 4 > hello!.minor",
    "const isSame = a.major !== b.major",
    "switch (version.major) {",
    "const newest = { major: 8, minor: 0, patch: 0 }",
    "spec.version.patch<3 // since then",
  ])("%s", (line) => expect(namings(`first()\n${line}\n`)).toEqual([expect.stringMatching(/^2: /)]))
})

describe("is no naming", () => {
  test.each([
    "// as in 7.0.0, where major === 7",
    '/** ggml-rpc.cpp `rpc_cmd` (8.0.0); "7.0.0" had none. */',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is code
    "const text = `${version.major}.${version.minor}`",
    "const version = { major: answer.major, minor: answer.minor, patch: answer.patch }",
    "const numbers = ({ major }: Version) => major",
    "if (spec.features.storedGraphs === 'uid') return",
    'const packageVersion = "3.22.1"',
    'const hint = "llama.cpp v1.0 speaks 9"',
    "const spec = findVersion(flags.protocol)",
  ])("%s", (line) => expect(namings(line)).toEqual([]))
})
