import { expect, spyOn, test } from "bun:test"
import * as Effect from "effect/Effect"
import { readArgs } from "../argv.ts"
import { settingsOf } from "../settings.ts"
import { stderr } from "../terminal.ts"
import { speculationOf } from "./speculation.ts"

/** What the flags come to, and what is said of them. */
const planned = async (...flags: ReadonlyArray<string>) => {
  const said: Array<string> = []
  const written = spyOn(stderr, "write").mockImplementation((text) => void said.push(text))
  try {
    const line = readArgs(["run", "model.gguf", ...flags])
    if (line.kind !== "command") throw new Error(line.kind)
    const { values } = settingsOf(line, {})
    const part = await Effect.runPromise(
      speculationOf(values as never, (given) =>
        Effect.succeed(given.kind === "file" ? given.path : "other"),
      ),
    )
    return { ...part.speculation, said: said.join("") }
  } finally {
    written.mockRestore()
  }
}

test("a smaller model guesses where it may, and one that may not is no secret", async () => {
  expect(await planned("-md", "small.gguf")).toMatchObject({
    draft: { path: "small.gguf" },
    said: "",
  })
  const both = await planned("--spec-type", "ngram-simple,draft-simple", "-md", "small.gguf")
  expect(both).toMatchObject({ ngram: { draftCount: 48 }, draft: { path: "small.gguf" }, said: "" })
  for (const type of ["none", "ngram-simple"]) {
    const { draft, said } = await planned("--spec-type", type, "-md", "small.gguf")
    expect(draft).toBeUndefined()
    expect(said).toContain(`--spec-type is ${type}`)
  }
})
