#!/usr/bin/env bun
/**
 * Makes the packages as they are published: `bun run build [-- FOLDER]`, default `build/packages`. Nothing in this
 * repository runs from there; its own programs and tests run the sources.
 */
import { join, resolve } from "node:path"
import { stageAll } from "./publish/stage.ts"
import { root } from "./publish/workspaces.ts"

const folder = resolve(process.argv[2] ?? join(root, "build", "packages"))
try {
  for (const { name, version, folder: made } of await stageAll(folder)) {
    console.log(`${name}@${version} ${made}`)
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exit(1)
}
