import { afterAll, beforeAll, expect, test } from "bun:test"
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"

/*
 * The package belongs to no runtime: Node imports it, and a realm with nothing but the language, WebAssembly and the two
 * text codecs, which every browser has too, runs it.
 */

let folder = ""
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "ggml-rpc-protocol-"))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const run = async (command: readonly string[]): Promise<string> => {
  const child = Bun.spawn([...command], { cwd: folder, stdout: "pipe", stderr: "pipe" })
  const [out, err] = [await child.stdout.text(), await child.stderr.text()]
  expect(err).toBe("")
  expect(await child.exited).toBe(0)
  return out
}

const bundle = async (target: "node" | "browser", format: "esm" | "iife", entry: string) => {
  const built = await Bun.build({ entrypoints: [entry], target, format })
  expect(built.success).toBe(true)
  return await built.outputs[0]!.text()
}

/** Uses every part: tables, frames, WebAssembly. */
const use = `
  const frame = p.encodeRequest(p.Command.ALLOC_BUFFER, { device: 1, sizeBytes: 4096n })
  const seen = []
  const decoder = new p.RequestDecoder({
    message: (command, payload) => seen.push(p.decodeRequest(command, payload).sizeBytes),
    streamStart() {}, streamData() {}, streamEnd() {},
  })
  for (const byte of frame) decoder.push(Uint8Array.of(byte))
  const name = p.RpcTensor.decode(new DataView(new ArrayBuffer(296))).name
  report(String([seen, p.opName(29), JSON.stringify(name), new p.Fnv1a64().update(frame).digestHex()]))
`
const expected = '4096,MUL_MAT,"",b42ea66233db94e2'

test("Node imports and runs it", async () => {
  await writeFile(
    join(folder, "protocol.mjs"),
    await bundle("node", "esm", join(import.meta.dir, "index.ts")),
  )
  const script = `import * as p from "./protocol.mjs"\nconst report = console.log\n${use}`
  await writeFile(join(folder, "use.mjs"), script)
  expect((await run(["node", "use.mjs"])).trim()).toBe(expected)
})

test("a bare realm runs it", async () => {
  const entry = join(folder, "bare.ts")
  const index = JSON.stringify(join(import.meta.dir, "index.ts"))
  await writeFile(entry, `import * as p from ${index}\n${use}`)
  await writeFile(join(folder, "bare.js"), await bundle("browser", "iife", entry))
  const host = `
    const { readFileSync } = require("node:fs")
    const realm = { TextEncoder, TextDecoder, report: console.log }
    require("node:vm").runInNewContext(readFileSync("bare.js", "utf8"), realm)
  `
  await writeFile(join(folder, "host.cjs"), host)
  expect((await run(["node", "host.cjs"])).trim()).toBe(expected)
})

test("the README's example prints what its comments say", async () => {
  const readme = await readFile(join(import.meta.dir, "../README.md"), "utf8")
  const example = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? ""
  const index = JSON.stringify(join(import.meta.dir, "index.ts"))
  const script = join(folder, "example.ts")
  await writeFile(script, example.replace('"@ggml-rpc/protocol"', index))
  const comments = [...example.matchAll(/console\.log\(.*\),? \/\/ (.*)/g)].map(
    (match) => match[1]!,
  )
  expect(comments.length).toBeGreaterThan(0)
  expect((await run([process.execPath, script])).trim()).toBe(comments.join("\n"))
})
