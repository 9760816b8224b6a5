import { expect, test } from "bun:test"
import { join } from "node:path"

/** What a process that aborts in ggml prints, and its exit code, after `before` has run. */
const abortAfter = async (before: string) => {
  const program = `
    import { CFunction, dlopen } from "bun:ffi"
    import { cString, ggml, librarySet, loadBackends } from ${JSON.stringify(join(import.meta.dir, "bindings.ts"))}
    loadBackends()
    const symbols = { ...ggml(), ...dlopen(librarySet().ggmlBase, {
      ggml_abort: { args: ["ptr", "i32", "ptr"], returns: "void" },
      ggml_log_get: { args: ["ptr", "ptr"], returns: "void" },
    }).symbols }
    ${before}
    symbols.ggml_abort(cString("ops.cpp"), 1, cString("GGML_ASSERT(false) failed"))
    console.log("went on")`
  const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "pipe" })
  const [said, printed] = await Promise.all([child.stderr.text(), child.stdout.text()])
  return { said, printed, exitCode: await child.exited }
}

test("an assertion of ggml ends the process at once, with ggml's words", async () => {
  expect(await abortAfter("")).toEqual({
    said: "ggml abort: ops.cpp:1: GGML_ASSERT(false) failed\n",
    printed: "",
    exitCode: 134,
  })
})

test("errors that were logged before are in them: backends of GPUs log the reason", async () => {
  const { said } = await abortAfter(`
    const address = new BigUint64Array(2)
    symbols.ggml_log_get(address, address.subarray(1))
    const log = new CFunction({ ptr: Number(address[0]), args: ["i32", "ptr", "ptr"], returns: "void" })
    log(3, cString("a warning\\n"), null)
    log(4, cString("CUDA error: out of memory\\n"), null)
    log(4, cString("  current device: 0\\n"), null)`)
  expect(said).toBe(
    "ggml abort: ops.cpp:1: GGML_ASSERT(false) failed, after: CUDA error: out of memory;   current device: 0\n",
  )
})
