import { lstatSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type GgufFile, saveGgufOutline } from "@ggml-rpc/gguf"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

const PREFIX = "ggml-rpc-plan-"

/** Nobody plans for so long: whoever made an older folder was killed. */
const MAX_AGE_MS = 24 * 3600 * 1000

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
    if (folder !== undefined) removeFolder(folder)
  }
  removeLeft()
  try {
    folder = mkdtempSync(join(tmpdir(), PREFIX))
    const path = join(folder, "outline.gguf")
    if (saveGgufOutline(gguf, path)) return { path, remove }
  } catch {
    // No room for temporary files: measuring by the model itself takes longer, and tells the same.
  }
  remove()
  return undefined
}

/** Removes what processes of this user left that were killed while they planned. */
const removeLeft = (): void => {
  for (const name of attempt(() => readdirSync(tmpdir())) ?? []) {
    if (!name.startsWith(PREFIX)) continue
    const path = join(tmpdir(), name)
    const stats = attempt(() => lstatSync(path))
    if (stats?.isDirectory() !== true || stats.uid !== process.getuid?.()) continue
    if (Date.now() - stats.mtimeMs > MAX_AGE_MS) removeFolder(path)
  }
}

/** One that cannot be removed is no reason to fail. */
const removeFolder = (path: string): void =>
  attempt(() => rmSync(path, { recursive: true, force: true }))

const attempt = <A>(action: () => A): A | undefined => {
  try {
    return action()
  } catch {
    return undefined
  }
}
