#!/usr/bin/env bun
/**
 * The API's documents from the docstrings: `bun run docs [-- FOLDER]`, default `build/docs`. One page a name, for every door
 * of every published package.
 */
import { join, resolve } from "node:path"
import { root, workspaces } from "./publish/workspaces.ts"

const folder = resolve(process.argv[2] ?? join(root, "build", "docs"))
const doors = workspaces.flatMap(({ folder: at, manifest }) =>
  Object.entries(manifest.exports)
    .filter(([door, source]) => source.endsWith(".ts") && !/\/(engine|session)$/.test(door))
    .map(([, source]) => join(at, source)),
)
const typedoc = join(root, "docs", "node_modules", "typedoc", "bin", "typedoc")
const child = Bun.spawn(
  [
    ...[
      process.execPath,
      typedoc,
      "--options",
      join(root, "docs", "typedoc.json"),
      "--out",
      folder,
    ],
    ...doors.flatMap((door) => ["--entryPoints", door]),
  ],
  { cwd: root, stdio: ["ignore", "inherit", "inherit"] },
)
process.exit(await child.exited)
