import { expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { kvTypes } from "@ggml-rpc/native"
import { ensureSource } from "@ggml-rpc/native/source"
import { allFlagsOf } from "../argv.ts"
import { closestFlag } from "../closest.ts"
import { type CommandName, commands, flagsOf } from "./commands.ts"
import { allSpellings } from "./Flag.ts"
import { kvTypeNames } from "./model.ts"

const names = Object.keys(commands) as ReadonlyArray<CommandName>

test.each(names)("%s spells no two flags alike, however many dashes they have", (name) => {
  const bare = allFlagsOf(name)
    .flatMap(allSpellings)
    .map((spelling) => spelling.replace(/^-+/, ""))
  expect(bare.length).toBe(new Set(bare).size)
})

test("the types of the KV cache are those that libllama takes", () => {
  expect([...kvTypeNames].sort()).toEqual(Object.keys(kvTypes).sort() as Array<never>)
})

interface UpstreamFlag {
  /** Those that negate it, too. */
  readonly spellings: ReadonlyArray<string>
  readonly env: string | undefined
}

const quoted = (list = ""): ReadonlyArray<string> =>
  [...list.matchAll(/"(-[^"]+)"/g)].map(([, name]) => name!)

/** The flags of llama.cpp's programs, read off common/arg.cpp. */
const upstream: ReadonlyArray<UpstreamFlag> = readFileSync(
  join(await ensureSource(), "common", "arg.cpp"),
  "utf8",
)
  .split("add_opt(common_arg(")
  .slice(1)
  .map((text) => {
    const [, names, negations] = /\{(\s*"[^}]*)\}(?:,\s*\{([^}]*)\})?/.exec(text)!
    return {
      spellings: [...quoted(names), ...quoted(negations)],
      env: /\.set_env\("([^"]+)"\)/.exec(text)?.[1],
    }
  })

const asLlamaCli: ReadonlyArray<CommandName> = ["run", "plan", "verify", "pull", "devices"]

test("flags of llama.cpp have its spellings and its variables", () => {
  expect(upstream.length).toBeGreaterThan(200)
  const common = asLlamaCli.flatMap(allFlagsOf).flatMap((flag) => {
    const same = upstream.find((theirs) => theirs.spellings.includes(`--${flag.name}`))
    return same === undefined ? [] : [{ flag, same }]
  })
  expect(common.length).toBeGreaterThan(50)
  for (const { flag, same } of common) {
    const others = allSpellings(flag).filter((spelling) => !same.spellings.includes(spelling))
    expect([flag.name, ...others]).toEqual([flag.name])
    // packages/models reads HF_TOKEN itself.
    if (flag.name === "hf-token") continue
    expect([flag.name, flag.env]).toEqual([flag.name, same.env])
  }
})

test("a flag of llama.cpp that is none here is not taken for another one", () => {
  const taken = allFlagsOf("run").flatMap(allSpellings)
  const known = Object.values(flagsOf("run")).flatMap(allSpellings)
  const guesses = upstream
    .flatMap((theirs) => theirs.spellings)
    .filter((name) => !taken.includes(name))
    .map((name) => [name, closestFlag(name, known)])
  expect(guesses.filter(([, guess]) => guess !== undefined)).toEqual([])
})
