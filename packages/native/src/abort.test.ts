import { expect, test } from "bun:test"
import { join } from "node:path"

test("an assertion of ggml ends the process at once, with ggml's words", async () => {
  const program = `
    import { dlopen } from "bun:ffi"
    import { cString, librarySet, loadBackends } from ${JSON.stringify(join(import.meta.dir, "bindings.ts"))}
    loadBackends()
    const { symbols } = dlopen(librarySet().ggmlBase, { ggml_abort: { args: ["ptr", "i32", "ptr"], returns: "void" } })
    symbols.ggml_abort(cString("ops.cpp"), 1, cString("GGML_ASSERT(false) failed"))
    console.log("went on")`
  const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "pipe" })
  expect(await new Response(child.stderr).text()).toBe(
    "ggml abort: ops.cpp:1: GGML_ASSERT(false) failed\n",
  )
  expect(await new Response(child.stdout).text()).toBe("")
  expect(await child.exited).toBe(134)
})
