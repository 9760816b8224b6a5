import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type GgufFile, saveGgufOutline } from "@ggml-rpc/gguf"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** A file to measure a model by, for as long as the scope is open; undefined: its own will do. See `saveGgufOutline`. */
export const modelOutline = (
  gguf: GgufFile,
): Effect.Effect<string | undefined, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => saveOutline(gguf)),
    (outline) => Effect.sync(() => outline?.remove()),
  ).pipe(Effect.map((outline) => outline?.path))

const saveOutline = (gguf: GgufFile) => {
  let folder: string | undefined
  const remove = (): void => {
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
  }
  try {
    folder = mkdtempSync(join(tmpdir(), "ggml-rpc-plan-"))
    const path = join(folder, "outline.gguf")
    if (saveGgufOutline(gguf, path)) return { path, remove }
  } catch {
    // No room for temporary files: measuring by the model itself takes longer, and tells the same.
  }
  remove()
  return undefined
}
