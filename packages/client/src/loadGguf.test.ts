import { expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { constantTensor, writeGguf } from "@ggml-rpc/gguf"
import { Effect, Either } from "effect"
import { loadGguf } from "./loadGguf.ts"

test("the effect gives the model, or fails with the error that reading throws", () => {
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-load-"))
  try {
    const missing = Effect.runSync(Effect.either(loadGguf(join(folder, "nowhere.gguf"))))
    expect(Either.isLeft(missing) && missing.left._tag).toBe("GgufError")
    const path = join(folder, "model.gguf")
    writeGguf(path, { metadata: [], tensors: [constantTensor("t", "F32", [8], 1)] })
    expect(Effect.runSync(loadGguf(path)).tensors.length).toBe(1)
    const caught = loadGguf(folder).pipe(
      Effect.catchTag("GgufError", ({ reason }) => Effect.succeed(reason)),
    )
    expect(Effect.runSync(caught)).toBe("unreadable")
  } finally {
    rmSync(folder, { recursive: true })
  }
})
