#!/usr/bin/env bun
/**
 * Makes `ggml-rpc` as one executable for this platform: `bun run build:binary [-- FILE]`, default `build/ggml-rpc`. It needs
 * glibc and libstdc++ of the system it runs on, and nothing else.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join, resolve } from "node:path"
import { gzipSync } from "node:zlib"
import { pagePlugin } from "../packages/api/scripts/page.ts"
import { stdoutPlugin } from "../packages/cli/scripts/bundle.ts"

import { baseLibraries, stageShim } from "./publish/shim.ts"
import { root } from "./publish/workspaces.ts"

/** Upstream's helpers for its own tools. */
const isUsed = (path: string): boolean => !/^libllama-common\b/.test(basename(path))

/** Writes the files gzipped into `folder`, and the entry that carries them. */
const writeEntry = (folder: string, paths: ReadonlyMap<string, string>): string => {
  const files = [...paths].map(([name, path], index) => {
    const bytes = readFileSync(path)
    const packed = `${basename(path)}.gz`
    writeFileSync(join(folder, packed), gzipSync(bytes, { level: 9 }))
    const sha256 = new Bun.CryptoHasher("sha256").update(bytes).digest("hex")
    return {
      load: `import file${index} from "./${packed}" with { type: "file" }`,
      entry: `{ name: ${JSON.stringify(name)}, sha256: "${sha256}", sizeBytes: ${bytes.length}, read: () => Bun.file(file${index}).bytes() }`,
    }
  })
  const main = JSON.stringify(join(root, "packages", "cli", "src", "binary", "main.ts"))
  const entry = join(folder, "entry.ts")
  writeFileSync(
    entry,
    [
      ...files.map(({ load }) => load),
      `import { start } from ${main}`,
      `await start([\n${files.map(({ entry: text }) => text).join(",\n")}\n])`,
    ].join("\n"),
  )
  return entry
}

const target = resolve(process.argv[2] ?? join(root, "build", "ggml-rpc"))
const work = mkdtempSync(join(tmpdir(), "ggml-rpc-binary-"))
try {
  const shim = join(work, "shim")
  await stageShim(shim)
  const paths = new Map<string, string>()
  for (const path of baseLibraries().filter(isUsed)) paths.set(`bins/${basename(path)}`, path)
  for (const name of readdirSync(shim)) paths.set(`shim/${name}`, join(shim, name))
  mkdirSync(dirname(target), { recursive: true })
  await Bun.build({
    entrypoints: [writeEntry(work, paths)],
    plugins: [await pagePlugin(), stdoutPlugin],
    format: "esm",
    bytecode: true,
    minify: { whitespace: true, syntax: true },
    compile: { outfile: target },
  })
  const { size } = Bun.file(target)
  console.log(`${target}: ${(size / 1e6).toFixed(0)} MB, ${paths.size} libraries`)
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode = 1
} finally {
  rmSync(work, { recursive: true })
}
