#!/usr/bin/env node
/**
 * The published `ggml-rpc`: starts the program, which needs Bun, from Node or from Bun. In Node it looks for the Bun of the
 * npm package `bun`, an optional dependency, then on the PATH. Imports nothing but Node's own modules.
 */
import { spawn } from "node:child_process"
import { existsSync, statSync } from "node:fs"
import { createRequire } from "node:module"
import { constants } from "node:os"
import { delimiter, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const self = fileURLToPath(import.meta.url)

/** The package's placeholder for its program, where no install script ran, is a text of a few hundred bytes. */
const PLACEHOLDER_BYTES = 65_536

const isProgram = (path: string): boolean =>
  existsSync(path) && statSync(path).size > PLACEHOLDER_BYTES

const folderOf = (name: string, from: string): string | undefined => {
  try {
    return dirname(createRequire(from).resolve(`${name}/package.json`))
  } catch {
    return undefined
  }
}

/** Bun as npm installs it: in the package `bun`, or left where that package's install script takes it from. */
const installedBun = (): string | undefined => {
  const folder = folderOf("bun", self)
  if (folder === undefined) return undefined
  const arch = process.arch === "arm64" ? "aarch64" : process.arch
  const platform = folderOf(`@oven/bun-${process.platform}-${arch}`, join(folder, "package.json"))
  return [
    join(folder, "bin", "bun.exe"),
    ...(platform === undefined ? [] : [join(platform, "bin", "bun")]),
  ].find(isProgram)
}

const bunOnPath = (): string | undefined =>
  (process.env.PATH ?? "")
    .split(delimiter)
    .map((folder) => join(folder, "bun"))
    .find((path) => existsSync(path))

const forwarded = ["SIGINT", "SIGTERM", "SIGHUP"] as const

/** Runs the same file in Bun and ends as that does. */
const startIn = (bun: string): void => {
  const child = spawn(bun, [self, ...process.argv.slice(2)], { stdio: "inherit" })
  for (const signal of forwarded) {
    process.on(signal, () => {
      // A terminal sends its own to both.
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal)
    })
  }
  child.on("error", ({ message }) => fail(`${bun} cannot be started (${message}).`))
  child.on("exit", (code, signal) => {
    process.exit(signal === null ? (code ?? 1) : 128 + constants.signals[signal])
  })
}

const fail = (reason: string): void => {
  console.error(
    `ggml-rpc needs Bun 1.4.5 or newer: ${reason} Install it with 'npm install bun', or see https://bun.com.`,
  )
  process.exit(1)
}

if (process.versions.bun === undefined) {
  const bun = installedBun() ?? bunOnPath()
  if (bun === undefined) {
    fail("neither the npm package 'bun' nor a 'bun' on the PATH was found.")
  } else startIn(bun)
} else {
  // Beside this file in the published package.
  const program = join(dirname(self), "program.js")
  const { main } = (await import(program)) as typeof import("./program.ts")
  process.exit(await main(process.argv.slice(2)))
}
