#!/usr/bin/env bun
/**
 * Prepares a release: `bun run release [-- --dry-run] [FOLDER]`. The version comes from the changelog's section `Unreleased`, and is
 * the same for all packages. Writes the version into the packages and the changelog, and makes the packages in
 * FOLDER (`build/packages`); publishing and tagging is left to you, with the commands that it prints. With `--dry-run` nothing is
 * written but that folder.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { join, relative, resolve } from "node:path"
import { execute } from "./publish/compile.ts"
import { stageAll } from "./publish/stage.ts"
import { releaseOf } from "./publish/versions.ts"
import { root, workspaces } from "./publish/workspaces.ts"

const args = process.argv.slice(2)
const isDryRun = args.includes("--dry-run")
const [folder = join(root, "build", "packages"), ...more] = args.filter(
  (arg) => arg !== "--dry-run",
)
if (more.length > 0 || folder.startsWith("-")) {
  console.error("Usage: bun run release [-- --dry-run] [FOLDER]")
  process.exit(2)
}

const changelogPath = join(root, "CHANGELOG.md")
const current = workspaces[0]!.manifest.version

const setVersion = (folder: string, version: string): void => {
  const path = join(folder, "package.json")
  const text = readFileSync(path, "utf8")
  writeFileSync(path, text.replace(/"version": "[^"]*"/, `"version": "${version}"`))
}

try {
  const today = new Date().toISOString().slice(0, 10)
  const release = releaseOf(readFileSync(changelogPath, "utf8"), current, today)
  const why = release.bump === undefined ? "the first release" : `${release.bump}, after ${current}`
  console.log(
    `version ${release.version} (${why}), ${release.notes.split(/^- /m).length - 1} changes`,
  )
  if (!isDryRun) {
    for (const { folder: of } of workspaces) setVersion(of, release.version)
    writeFileSync(changelogPath, release.changelog)
    // The lockfile has the workspaces' versions.
    await execute([process.execPath, "install"])
  }
  const staged = await stageAll(resolve(folder), release.version)
  console.log(
    `\nto publish, in this order${isDryRun ? " (nothing was published, tagged or changed)" : ""}:`,
  )
  for (const { name, version, folder: made } of staged) {
    console.log(`  npm publish ./${relative(root, made)} --access public  # ${name}@${version}`)
  }
  console.log(`then: git commit -am "release ${release.version}" && git tag v${release.version}`)
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exit(1)
}
